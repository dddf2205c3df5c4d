"""Decoding: plain and packed, in float32, bfloat16, fp16, int8 and int4, beside the machine's limit.

    python benchmarks/generation.py [--rounds 3] [--threads 2] [--device cpu] [--only NAME ...]

A token's time is that of a whole text less that of its first token, over the others; the first token's begins after the
picture encoder, which benchmarks/encoding.py measures. The limit is the time to read once, at the bandwidth measured
beside, all weights that a token needs; weights that fit the cache can pass it. That of a first token is the time of all
products at the speed of a large one. Ratios are medians of paired ratios.
"""

import argparse
import gc
import statistics
from dataclasses import dataclass

import torch
from parts import (
    SIZES,
    arithmetic,
    bandwidth,
    build,
    bytes_read_a_token,
    generate,
    machine,
    operations,
    paired_ratio,
    peak_memory,
    progress,
    prompts,
    seconds_in_turn,
    sharing,
)

from mmlm.assembly.multimodal_lm import MultimodalLM

BYTES = {  # of a weight, with the scale and the middle of its group
    "fp16 packed": 2.0,
    "int8 packed": 1.0,
    "int4 packed": 0.5 + 4 / 32,
}


@dataclass(frozen=True)
class Workload:
    size: str
    batch: int = 1
    pictures: int = 1
    beams: int = 1


WORKLOADS = {
    "1 picture": Workload("small"),
    "5 pictures": Workload("small", pictures=5),
    "33 pictures": Workload("small", pictures=33),
    "5 pictures, 3 beams": Workload("small", pictures=5, beams=3),
    "batch 8, 1 picture": Workload("small", batch=8),
    "tiny, batch 8, 5 pictures": Workload("tiny", batch=8, pictures=5),
    "tiny, batch 8, 5 pictures, 3 beams": Workload("tiny", batch=8, pictures=5, beams=3),
}


def variants(size: str, device: str) -> dict[str, MultimodalLM]:
    """All ways of decoding. Those of one dtype share their weights."""
    bf16, fp32 = (build(size, dtype).to(device) for dtype in (torch.bfloat16, torch.float32))  # the larger one last
    models = {}
    for name, model in (("fp32", fp32), ("bf16", bf16)):
        models[name] = model
        progress(f"packing {size} as {name}")
        models[f"{name} packed"] = sharing(models[name]).pack()
    if device == "cpu":
        models |= {f"{weights} packed": sharing(models["fp32"]).pack(weights) for weights in ("fp16", "int8", "int4")}
    return models


@dataclass(frozen=True)
class Speeds:
    """The machine's own: bytes a second, and floating point operations a second by dtype."""

    reads: float
    computes: dict[torch.dtype, float]


def measure(title: str, models: dict[str, MultimodalLM], work: Workload, new: int, rounds: int, speeds: Speeds) -> None:
    """Prints a line for each model; AssertionError where packing changes the tokens of float32."""
    tokens, runs = {}, {}
    for name, model in models.items():
        batch, media = prompts(model, work.batch, work.pictures)
        features = iter(model.encode_media([item for row in media for item in row]))
        encoded = [[next(features) for _ in row] for row in media]
        tokens[name] = generate(model, batch, encoded, new, work.beams)
        for count in (1, new):
            runs[f"{name} {count}"] = lambda m=model, b=batch, e=encoded, n=count: generate(m, b, e, n, work.beams)
    assert torch.equal(tokens["fp32"], tokens["fp32 packed"]), f"{title}: packing changes tokens"
    took = seconds_in_turn(runs, rounds)
    first = {name: took[f"{name} 1"] for name in models}
    later = {
        name: [(whole - one) / (new - 1) for whole, one in zip(took[f"{name} {new}"], first[name], strict=True)]
        for name in models
    }
    operated = operations(models["fp32"], runs["fp32 1"])
    for name, model in models.items():
        limit, token = bytes_read_a_token(model, BYTES.get(name)) / speeds.reads, statistics.median(later[name])
        first_limit = operated / speeds.computes[model.language_model.dtype]
        agree = (tokens[name] == tokens["fp32"]).float().mean()
        cells = (
            title,
            name,
            f"{1000 * token:.2f}",
            f"{paired_ratio(later['fp32'], later[name]):.2f}x",
            f"{1000 * limit:.2f}",
            f"{100 * limit / token:.0f}%",
            f"{1000 * statistics.median(first[name]):.0f}",
            f"{paired_ratio(first['fp32'], first[name]):.2f}x",
            f"{1000 * first_limit:.0f}",
            f"{100 * first_limit / statistics.median(first[name]):.0f}%",
            f"{100 * agree:.0f}%",
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--new", type=int, default=64, help="tokens of a text")
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--size", choices=SIZES, help="of all language models, in place of each workload's own")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    dtypes = (torch.float32, torch.bfloat16)
    speeds = Speeds(bandwidth(args.device), {dtype: arithmetic(dtype, args.device) for dtype in dtypes})
    computes = ", ".join(f"{speed / 1e9:.0f} GFLOP/s in {str(dtype)[6:]}" for dtype, speed in speeds.computes.items())
    print(f"{machine(args.device, args.threads)}, {speeds.reads / 1e9:.1f} GB/s, {computes}")
    print("Times in ms, ratios to fp32\n")
    titles = "workload | weights | a token | ratio | limit | reached | first token | ratio | limit | reached | as fp32"
    print(f"| {titles} |\n" + "| --- " * 11 + "|")
    chosen = {name: WORKLOADS[name] for name in args.only}
    sizes = [args.size] if args.size else list(dict.fromkeys(work.size for work in chosen.values()))
    for size in sizes:
        models = variants(size, args.device)
        for title, work in chosen.items():
            if size in (args.size, work.size):
                measure(title, models, work, args.new, args.rounds, speeds)
        del models
        gc.collect()  # modules and their hooks refer to each other
    print(f"\n{peak_memory()}")


if __name__ == "__main__":
    main()
