"""Writes small.gguf with the `gguf` package (0.17 or later): every type of metadata and of tensors
that is read, each packed tensor with its dequantised numbers beside it, and a little tokenizer.

    pip install gguf && python3 make.py
"""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFWriter, TokenType
from gguf.quants import dequantize, quantize

rng = np.random.default_rng(7)
w = GGUFWriter(Path(__file__).with_name("small.gguf"), "llama")
w.add_custom_alignment(64)
w.add_name("small")
w.add_block_count(2)
w.add_layer_norm_rms_eps(1e-5)
w.add_uint8("kinds.u8", 200)
w.add_int8("kinds.i8", -100)
w.add_uint16("kinds.u16", 60000)
w.add_int16("kinds.i16", -30000)
w.add_uint32("kinds.u32", 4_000_000_000)
w.add_int32("kinds.i32", -2_000_000_000)
w.add_uint64("kinds.u64", 2**64 - 1)
w.add_int64("kinds.i64", -(2**63))
w.add_float32("kinds.f32", 0.1)
w.add_float64("kinds.f64", 0.1)
w.add_bool("kinds.bool", True)
w.add_string("kinds.text", "naïve")
w.add_array("kinds.numbers", [1, 2, 3])
w.add_array("kinds.texts", ["a", "", "ß"])
w.add_array("kinds.nested", [[1, 2], [3]])
w.add_array("kinds.long", list(range(1025)))
w.add_tokenizer_model("gpt2")
w.add_tokenizer_pre("smollm")
w.add_token_list(["<|end|>", "a", "b", "ab"])
w.add_token_types([TokenType.CONTROL, TokenType.NORMAL, TokenType.NORMAL, TokenType.NORMAL])
w.add_token_merges(["a b"])
w.add_bos_token_id(0)
w.add_eos_token_id(0)
w.add_pad_token_id(2**32 - 1)
w.add_add_bos_token(False)
w.add_chat_template("{{ messages[0].content }}")

x = np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5
w.add_tensor("f32", x)
w.add_tensor("f16", x.astype(np.float16))
w.add_tensor("bf16", quantize(x, T.BF16), raw_dtype=T.BF16)
w.add_tensor("f64", x.astype(np.float64))
w.add_tensor("i32", np.array([-1, 2**31 - 1], dtype=np.int32))
w.add_tensor("i64", np.array([-(2**63)], dtype=np.int64))
w.add_tensor("i8", np.array([1, -1], dtype=np.int8))
for kind in [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0]:
    q = quantize(rng.standard_normal((3, 64)).astype(np.float32), kind)
    w.add_tensor(f"{kind.name}.weight", q, raw_dtype=kind)
    w.add_tensor(f"{kind.name}.expected", dequantize(q, kind))
# The package writes no K blocks: random bytes are some, once their scales are small.
for kind, block, scales in [(T.Q4_K, 144, [0, 2]), (T.Q5_K, 176, [0, 2]), (T.Q6_K, 210, [208])]:
    q = rng.integers(0, 256, (2, 2, block), dtype=np.uint8)
    for at in scales:
        q[..., at : at + 2] = rng.uniform(0.001, 0.01, (2, 2, 1)).astype(np.float16).view(np.uint8)
    q = q.reshape(2, 2 * block)
    w.add_tensor(f"{kind.name}.weight", q, raw_dtype=kind)
    w.add_tensor(f"{kind.name}.expected", dequantize(q, kind))
q = quantize(rng.standard_normal((2, 2, 32)).astype(np.float32), T.Q8_0)
w.add_tensor("experts", q, raw_dtype=T.Q8_0)
w.add_tensor("row", q[0, 0], raw_dtype=T.Q8_0)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
