"""The picture encoder and the resampler: plain and packed, in float32 and bfloat16.

    python benchmarks/encoding.py [--rounds 3] [--threads 2] [--device cpu] [--pictures 1 8 32]

ViT-B-32 from pixels to patch tokens, then six layers of resampler to 64 latents. benchmarks/hearing.py is of Whisper's
encoder. Ratios are medians of paired ratios. The limit is the time of all products at the speed of a large one,
measured beside.
"""

import argparse
import statistics

import torch
from parts import SIZES, arithmetic, build, machine, operations, paired_ratio, prompts, seconds_in_turn, sharing
from torch import Tensor

from mmlm.acceleration.copies import use_packed
from mmlm.assembly.multimodal_lm import MultimodalLM


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
    models = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        models[name] = build(args.size, dtype).to(args.device)
        if args.device == "cpu":  # on a GPU, encoders are not packed
            models[f"{name} packed"] = sharing(models[name]).pack()
    print(f"{machine(args.device, args.threads)}; ms, ratios to fp32\n")
    print("| pictures | weights | encoder | ratio | limit | reached | resampler | ratio | limit | reached |")
    print("| --- " * 10 + "|")
    speeds = {dtype: arithmetic(dtype, args.device) for dtype in (torch.float32, torch.bfloat16)}
    for count in args.pictures:
        runs, latents = {}, {}
        for name, model in models.items():
            _, media = prompts(model, 1, count)
            tokens = encode(model, media[0])
            latents[name] = resample(model, tokens)
            runs[f"{name}, encoder"] = lambda m=model, p=media[0]: encode(m, p)
            runs[f"{name}, resampler"] = lambda m=model, t=tokens: resample(m, t)
        if "fp32 packed" in models:
            torch.testing.assert_close(latents["fp32 packed"], latents["fp32"], rtol=1e-3, atol=1e-4)
        took = seconds_in_turn(runs, args.rounds)
        work = {part: operations(models["fp32"], runs[f"fp32, {part}"]) for part in ("encoder", "resampler")}
        for name, model in models.items():
            cells = []
            for part, operated in work.items():
                own = took[f"{name}, {part}"]
                time, limit = statistics.median(own), operated / speeds[model.language_model.dtype]
                ratio = paired_ratio(took[f"fp32, {part}"], own)
                cells += [f"{1000 * time:.1f}", f"{ratio:.2f}x", f"{1000 * limit:.1f}", f"{100 * limit / time:.0f}%"]
            print(f"| {count} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
