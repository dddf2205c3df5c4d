"""The picture encoder and the resampler: plain, packed, packed in fp16, and in bfloat16.

    python benchmarks/encoding.py [--rounds 3] [--threads 2] [--device cpu] [--pictures 1 8 32]

ViT-B-32 from pixels to patch tokens, then six layers of resampler to 64 latents. benchmarks/hearing.py is of Whisper's
encoder. Ratios are medians of paired ratios.
"""

import argparse
import statistics

import torch
from parts import SIZES, build, machine, paired_ratio, prompts, seconds_in_turn
from torch import Tensor

from mmlm.model import MultimodalLM
from mmlm.packing import use_packed


@torch.no_grad()
def encode(model: MultimodalLM, pixels: list) -> Tensor:
    """Patch tokens [N, S, D]."""
    with use_packed():
        return torch.cat([features.tokens for features in model.encode_media(pixels)])


@torch.no_grad()
def resample(model: MultimodalLM, tokens: Tensor) -> Tensor:
    """Latents [N, L, V]."""
    with use_packed():
        return model.resamplers["image"](tokens)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--size", choices=SIZES, default="tiny", help="of the language model, which has no part in it")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    models = {"fp32": build(args.size).to(args.device), "bf16": build(args.size, torch.bfloat16).to(args.device)}
    if args.device == "cpu":  # on a GPU, encoders are not packed
        models |= {f"{weights} packed": build(args.size).pack(weights) for weights in ("exact", "fp16")}
        models |= {"bf16 packed": build(args.size, torch.bfloat16).pack()}
    print(f"{machine(args.device, args.threads)}; ms, ratios to fp32\n")
    print("| pictures | weights | encoder | ratio | resampler | ratio |\n" + "| --- " * 6 + "|")
    for count in args.pictures:
        runs, latents = {}, {}
        for name, model in models.items():
            _, media = prompts(model, 1, count)
            tokens = encode(model, media[0])
            latents[name] = resample(model, tokens)
            runs[f"{name}, encoder"] = lambda m=model, p=media[0]: encode(m, p)
            runs[f"{name}, resampler"] = lambda m=model, t=tokens: resample(m, t)
        if "exact packed" in models:
            torch.testing.assert_close(latents["exact packed"], latents["fp32"], rtol=1e-3, atol=1e-4)
        took = seconds_in_turn(runs, args.rounds)
        for name in models:
            cells = [
                f"{1000 * statistics.median(took[f'{name}, {part}']):.1f} | "
                f"{paired_ratio(took[f'fp32, {part}'], took[f'{name}, {part}']):.2f}x"
                for part in ("encoder", "resampler")
            ]
            print(f"| {count} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
