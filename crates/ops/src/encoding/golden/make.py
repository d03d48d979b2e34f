"""Packed blocks and what the `gguf` package (0.19, NumPy) makes of them.

Each NAME.bin holds blocks of random bytes, whose half-precision fields are finite and of either
sign, and then their numbers as f32, all little-endian. Run it in this folder: `python3 make.py`.
"""

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGML_QUANT_SIZES, dequantize

HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}

random = np.random.default_rng(20260101)
for name, halves in HALVES.items():
    kind = Type[name]
    length, size = GGML_QUANT_SIZES[kind]
    count = 1024 // length
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    for at in halves:
        numbers = random.normal(0, 0.1, count).astype(np.float16)
        # One is subnormal.
        numbers[-1] = 3e-6
        blocks[:, at : at + 2] = numbers.view(np.uint8).reshape(count, 2)
    numbers = dequantize(blocks.reshape(-1), kind).astype("<f4")
    assert numbers.size == count * length and np.isfinite(numbers).all()
    with open(name.lower() + ".bin", "wb") as f:
        f.write(blocks.tobytes() + numbers.tobytes())
