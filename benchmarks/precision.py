"""What faster weights cost in quality: a model on held-out records, plain, packed, in bfloat16, fp16, int8 and int4.

    python benchmarks/precision.py DATA [--model nano] [--limit 200]

DATA is what `mmlm eval` takes. Loss is in nats per answer token, over captions and answers, with the right pictures;
"same texts" are captions, word for word those of the plain model.
"""

import argparse

import torch

import mmlm
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data import read_records
from mmlm.evaluation.gap import medium_gap
from mmlm.prompting.parts import Image


def variants(name: str) -> dict[str, MultimodalLM]:
    """The same weights in all ways of decoding."""
    return {
        "fp32": mmlm.load(name),
        "fp32 packed": mmlm.load(name).pack(),
        "bf16 packed": mmlm.load(name).to(torch.bfloat16).pack(),
        "fp16 packed": mmlm.load(name).pack("fp16"),
        "int8 packed": mmlm.load(name).pack("int8"),
        "int4 packed": mmlm.load(name).pack("int4"),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--limit", type=int, default=200)
    args = parser.parse_args(argv)
    records = read_records(args.data)[: args.limit]
    plain: list[str] = []
    print("| weights | loss | change | same texts |\n| --- | --- | --- | --- |")
    for name, model in variants(args.model).items():
        features = model.encode_media([record.decode() for record in records])
        loss = medium_gap(model, records, features={"image": features}, resamples=100).right
        texts = model.caption([Image(item) for item in features], max_new_tokens=30)
        if not plain:
            plain, reference = texts, loss
        same = sum(a == b for a, b in zip(plain, texts, strict=True)) / len(texts)
        print(f"| {name} | {loss:.4f} | {loss - reference:+.4f} | {100 * same:.1f}% |", flush=True)


if __name__ == "__main__":
    main()
