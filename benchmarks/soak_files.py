"""Damaged models, codecs, recipes and data: how many load, how many are refused, and whether anything else happens.

    python benchmarks/soak_files.py --count 300

One file of a small saved model, CLIP, Whisper, language model, codec, diffusion decoder, recipe, tar or manifest is
damaged at random: bytes as in fuzz_media.py, or a value in its settings replaced by a hostile one. Then it is loaded
and used. What loads must compute; what does not must raise an error of the documented types, within 30 s and 2 GB. Exit
code 1 if anything else happens.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_media import damaged, pictures, report, run

DOCUMENTED = (ValueError, TypeError, OSError)
MOST_MEMORY = 2 << 30  # bytes beyond what the process took after its first file
VALUES = [0, -1, 1, 2, 10**9, 10**18, 2**63, -(2**31), 1e308, float("nan"), float("inf"), True, None, "", "x", "../..",
          "/etc/passwd", "\ud800", [], {}, [[]], [10**9], {"a": 1}, "a" * 10_000]  # fmt: skip


@cache
def made() -> Path:
    """Every kind in a folder of its own, whole."""
    import torch

    import mmlm
    from decoders.codecs.checkpoint import save_codec
    from decoders.codecs.image_vqvae import ImageVQVAE, ImageVQVAEConfig
    from decoders.codecs.quantizer import QuantizerConfig
    from decoders.diffusion.checkpoint import save_decoder
    from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig

    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    nano = Path(mmlm.__file__).parent / "nano"
    for kind, part in (("clip", "image_encoder"), ("language model", "language_model")):
        shutil.copytree(nano / part, root / kind, copy_function=shutil.copyfile)
    for kind in ("model", "whisper", "recipe", "tar", "manifest"):
        (root / kind).mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(nano / name, root / "model" / name)
    shutil.copyfile(nano / "audio_encoder.pt", root / "whisper/ears.pt")
    codec = ImageVQVAE(ImageVQVAEConfig(size=16, width=8, blocks=1, quantizer=QuantizerConfig("fsq", 64)))
    save_codec(codec.eval(), root / "codec")
    save_decoder(DiffusionDecoder(codec, DiffusionDecoderConfig(channels=(16,))), root / "decoder")
    text = "model: nano\ndata: pairs.jsonl\noutput: run\nsteps: 4\nbatch_size: 2\noptimizer: muon\n"
    (root / "recipe/recipe.yaml").write_text(text)
    lines = [json.dumps({"image": "a.png", "caption": "red"}), json.dumps({"audio": "a.wav", "transcript": "hi"})]
    (root / "manifest/pairs.jsonl").write_text("\n".join(lines * 5))
    with tarfile.open(root / "tar/pairs.tar", "w") as tar:
        for name, data in (("a.png", pictures()[0]), ("a.json", b'{"caption": "red"}'), ("b.png", pictures()[1]),
                           ("b.txt", b"blue")):  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return root


@cache
def whole_model() -> Any:
    """nano, to lend its parts to a saved model whose own files are damaged."""
    import mmlm

    return mmlm.load("nano")


def use_model(folder: Path) -> None:
    import mmlm

    whole = whole_model()
    model = mmlm.load(folder, image_encoder=whole.encoders["image"], audio_encoder=whole.encoders["audio"],
                      codecs=mmlm.Codecs(image=whole.codecs["image"], audio=whole.codecs["audio"]))  # fmt: skip
    assert isinstance(model.caption(pictures()[0], max_new_tokens=3), str)


def use_clip(folder: Path) -> None:
    import torch

    from encoders.clip import ClipImageEncoder

    encoder = ClipImageEncoder.load(folder)
    picture = encoder.preprocess(pictures()[0])[None]
    assert encoder.encode(picture).tokens.shape[2] == encoder.dim and encoder.embed_images(picture).ndim == 2
    assert isinstance(encoder.embed_texts(["a red circle"]), torch.Tensor)


def use_whisper(folder: Path) -> None:
    from encoders.whisper import WhisperAudioEncoder

    encoder = WhisperAudioEncoder.load(folder / "ears.pt")
    assert encoder.features([np.zeros(8000, np.float32)])[0].tokens.shape[2] == encoder.dim


def use_language_model(folder: Path) -> None:
    import torch

    from encoders.texts import tokenizing
    from mmlm.assembly.frozen import language_model_of

    host = language_model_of(folder, None, torch.float32, False)
    with tokenizing():
        ids = torch.tensor([host.tokenizer("a red circle")["input_ids"]], dtype=torch.long)
    assert not ids.numel() or host.model(ids).logits.shape[:2] == ids.shape


def use_codec(folder: Path) -> None:
    import torch

    from mmlm.assembly.codecs import load_one_codec

    codec = load_one_codec(folder)
    size = codec.size or 16
    if size > 256:
        return  # a picture of the wrong size is the caller's: this one is read and computes
    codes = codec.encode(torch.rand(1, 3, size, size)).codes
    assert codec.decode(codes).shape == (1, 3, size, size)


def use_decoder(folder: Path) -> None:
    import torch

    from decoders.codecs.checkpoint import load_codec
    from decoders.diffusion.checkpoint import load_decoder

    codec = load_codec(made() / "codec")
    decoder = load_decoder(folder, codec)
    codes = codec.encode(torch.rand(1, 3, 16, 16)).codes
    assert decoder.decode(codes, steps=1).shape == (1, 3, 16, 16)


def use_recipe(folder: Path) -> None:
    from mmlm.training.recipe import load_recipe, recipe_yaml

    recipe_yaml(load_recipe(folder / "recipe.yaml"))


def use_records(folder: Path) -> None:
    from mmlm.data import read_records

    (file,) = folder.iterdir()
    for record in read_records(str(file), bad_limit=1.0):
        assert record.captions or record.transcript or record is not None


KINDS: dict[str, Callable[[Path], None]] = {
    "model": use_model, "clip": use_clip, "whisper": use_whisper, "language model": use_language_model,
    "codec": use_codec, "decoder": use_decoder, "recipe": use_recipe, "tar": use_records, "manifest": use_records,
}  # fmt: skip


def replaced(data: bytes, draw: np.random.Generator) -> bytes:
    """JSON in which one value, at any depth, is another."""
    config = json.loads(data)
    place: Any = config
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = keys[draw.integers(len(keys))]
        inner = place[key]
        if isinstance(inner, dict | list) and inner and draw.random() < 0.9:
            place = inner
            continue
        place[key] = VALUES[draw.integers(len(VALUES))]
        return json.dumps(config).encode()


def attempt(kind: str, seed: int, index: int) -> tuple[str, str]:
    """Damage one file of a kind and use it: (read, refused or failed; the message)."""
    draw = np.random.default_rng((seed, index))
    if kind in ("model", "decoder"):
        (whole_model if kind == "model" else made)()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "part")
        shutil.copytree(made() / kind, folder, copy_function=shutil.copyfile)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        file = files[draw.integers(len(files))]
        by_value = file.suffix == ".json" and draw.random() < 0.5
        file.write_bytes((replaced if by_value else damaged)(file.read_bytes(), draw))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            KINDS[kind](folder)
            outcome = "read", ""
        except DOCUMENTED as error:
            outcome = "refused", str(error)
        except BaseException as error:  # whatever it is, it is counted and shown
            outcome = "failed", f"{file.name}: {type(error).__name__}: {str(error)[:300]}"
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        return outcome if grown < MOST_MEMORY else ("failed", f"{file.name}: took {grown / 1e9:.1f} GB")


def timed(kind: str, seed: int, index: int) -> tuple[str, str]:
    """The same, where what takes 30 s and more counts as a failure."""
    import time

    start = time.monotonic()
    outcome = attempt(kind, seed, index)
    seconds = time.monotonic() - start
    return outcome if index == 0 or seconds < 30 else ("failed", f"took {seconds:.0f} s")


def main() -> None:
    """Print a table of outcomes, and each failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="files of each kind (default: 300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    args = parser.parse_args()
    found = {kind: run(kind, args.count, args.seed, timed) for kind in args.kinds}
    report(found, "loaded and used", "refused with a documented error")


if __name__ == "__main__":
    main()
