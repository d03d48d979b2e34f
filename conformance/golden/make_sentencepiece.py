"""Writes sentencepiece.json: two tiny BPE vocabularies trained by the `sentencepiece` package (0.2),
with ids and decoded texts of the same package. The first has tokens of bytes and user-defined
symbols; the second has neither.

    pip install sentencepiece protobuf && python3 make_sentencepiece.py
"""

import io
import json
from pathlib import Path

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb

here = Path(__file__).parent
corpus = [
    line
    for name in ["README.md", "ARCHITECTURE.md"]
    for line in (here / "../.." / name).read_text().splitlines()
    if line.strip()
] + ["ein Käfer läuft über die Straße, naïve café"] * 3
texts = [
    "Hello, world!", "a", " ", "  two  spaces ", "trailing ", "tabs\tand\nlines\n\n", "",
    "Frit runs transformer models, written as many small tensor operations.",
    "every operation is fused and the kernel declined, composed, optimised",
    "naïve café über Straße", "日本語 and emoji 😀", "aaaaaaaaaaaaaaaaaaaaaaaa", "ababababab",
    "tensortensortensor", "1234567890", "<tool>x</tool> y<tool>", "in<tool>side",
    "▁already▁escaped", "the\u00a0nbsp", "<0x0A> spelt out",
]


def model(**options):
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=out, model_type="bpe",
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        num_threads=1, **options,
    )
    proto = pb.ModelProto()
    proto.ParseFromString(out.getvalue())
    sp = spm.SentencePieceProcessor(model_proto=out.getvalue())
    cases = []
    for text in texts:
        ids = sp.encode(text)
        cases.append({"text": text, "ids": ids, "decoded": sp.decode(ids)})
    return {
        "tokens": [p.piece for p in proto.pieces],
        "scores": [p.score for p in proto.pieces],
        "types": [p.type for p in proto.pieces],
        "unk": sp.unk_id(), "bos": sp.bos_id(), "eos": sp.eos_id(),
        "cases": cases,
    }


models = [
    model(vocab_size=900, byte_fallback=True, user_defined_symbols=["<tool>", "</tool>"]),
    model(vocab_size=500, byte_fallback=False, character_coverage=0.99),
]
(here / "sentencepiece.json").write_text(json.dumps(models, ensure_ascii=False) + "\n")
