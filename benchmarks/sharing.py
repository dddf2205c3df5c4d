"""The memory of models over one giant: one of them, several that share it, and several with copies of their own.

python benchmarks/sharing.py [--language-model FOLDER] [--image-encoder NAME] [--audio-encoder NAME] [--models 2]
                             [--every 1] [--dtype float32] [--pack exact|fp16|int8|int4]

Each line is a process of its own, in which each model has written a few words. Resident memory: what is in RAM of the
process, its libraries included, once what was freed is given back. Without parts, they are nano's. every: the blocks of
the language model for each gated one.
"""

import argparse
import ctypes
import gc
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import mmlm
from mmlm.model.config import FusionConfig, ResamplerConfig

PARTS = {"language_model": "language_model", "image_encoder": "image_encoder", "audio_encoder": "audio_encoder.pt"}


def resident() -> float:
    """MB of this process in RAM."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def measure(folders: list[str], dtype: str, pack: str | None, shares: bool) -> dict[str, float]:
    """MB before any model, with the first, and with all of them."""
    models: list[mmlm.MultimodalLM] = []
    found = [resident()]
    for folder in folders:
        model = mmlm.load(folder, beside=models if shares else (), dtype=getattr(torch, dtype))
        if pack is not None:
            from mmlm.acceleration.pack import share_packed

            model.pack(pack)
            for other in models if shares else ():
                share_packed(model, other)
        model.generate(["a picture of"], max_new_tokens=8)
        models.append(model)
        found.append(resident())
    return {"before": found[0], "one": found[1], "all": found[-1]}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part, name in PARTS.items():
        parser.add_argument(f"--{part.replace('_', '-')}", default=f"preset:nano/{name}", metavar="NAME")
    parser.add_argument("--models", type=int, default=2)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--pack", choices=["exact", "fp16", "int8", "int4"])
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        print(json.dumps(measure(args.measure, args.dtype, args.pack, not args.apart)))
        return
    with tempfile.TemporaryDirectory() as folder:
        folders = [str(Path(folder, str(number))) for number in range(args.models)]
        for number, own in enumerate(folders):
            made = mmlm.assemble(
                args.language_model, args.image_encoder, audio_encoder=args.audio_encoder, seed=number,
                resampler=ResamplerConfig(), fusion=FusionConfig(args.every),
            )  # fmt: skip
            made.save(own)
        added = sum(tensor.numel() for _, tensor in made.added_parameters())
        whole = sum(tensor.numel() for tensor in made.parameters())
        del made
        print(f"{whole / 1e6:.1f} million weights in a model, {added / 1e6:.1f} of them its own")
        print("| models in one process | resident, MB | for each more, MB |\n| --- | --- | --- |")
        for name, flags in {"that share the giant": [], "with copies of their own": ["--apart"]}.items():
            words = ["--dtype", args.dtype, *(["--pack", args.pack] if args.pack else []), *flags]
            command = [sys.executable, __file__, *words, "--measure", *folders]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            if not flags:
                print(f"| none | {found['before']:,.0f} | |\n| 1 | {found['one']:,.0f} | |")
            more = (found["all"] - found["one"]) / max(1, args.models - 1)
            print(f"| {args.models} {name} | {found['all']:,.0f} | {more:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
