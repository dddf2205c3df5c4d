"""A training step of the adapters: pictures encoded anew or taken from the cache, in float32 or bfloat16.

    python benchmarks/training.py [--rounds 3] [--threads 2] [--device cpu] [--batch 8] [--tokens 64]

Only what was added trains, by AdamW; one picture a row. "bf16" computes in bfloat16 and keeps weights in float32, as
`precision="bf16"` does. Ratios are medians of paired ratios.
"""

import argparse
import statistics
from contextlib import nullcontext

import torch
from parts import SIZES, build, machine, paired_ratio, prompts, seconds_in_turn


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--size", choices=SIZES, default="small")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    model = build(args.size).to(args.device).train()
    batch, pixels = prompts(model, args.batch, 1, args.tokens)
    batch.labels = batch.input_ids.masked_fill(batch.input_ids >= model.language_model.vocabulary.offset, -100)
    with torch.no_grad():
        cached = [[features] for features in model.encode_media([row[0] for row in pixels])]

    def loss(media: list, half: bool) -> torch.Tensor:
        with torch.autocast(args.device, torch.bfloat16) if half else nullcontext():
            return model(batch, media).loss

    with torch.no_grad():
        assert torch.equal(loss(pixels, False), loss(cached, False)), "cached features give another loss"
    optimizer = torch.optim.AdamW([tensor for _, tensor in model.added_parameters()], lr=1e-6)

    def step(media: list, half: bool) -> None:
        optimizer.zero_grad()
        loss(media, half).backward()
        optimizer.step()

    took = seconds_in_turn(
        {
            "fp32": lambda: step(pixels, False),
            "fp32, cached features": lambda: step(cached, False),
            "bf16": lambda: step(pixels, True),
            "bf16, cached features": lambda: step(cached, True),
        },
        args.rounds,
    )
    print(f"{machine(args.device, args.threads)}, batch {args.batch}, {args.tokens} tokens\n")
    print("| step | seconds | ratio |\n| --- | --- | --- |")
    for name, own in took.items():
        print(f"| {name} | {statistics.median(own):.3f} | {paired_ratio(took['fp32'], own):.2f}x |")


if __name__ == "__main__":
    main()
