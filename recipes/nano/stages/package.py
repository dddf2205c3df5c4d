"""The weights as they ship: frozen parts in float16, everything packed, and unpacked again to train on."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

from recipes.nano.settings import Recipe

HEARD = ("audio_digits_more", "audio_digits", "audio_encoder_more")
PACKAGE = Path(__file__).resolve().parents[3] / "mmlm/nano"


def freeze(recipe: Recipe, output: Path) -> None:
    """Round both frozen parts to the float16 in which they ship, so that the adapters meet exactly those weights."""
    from safetensors.torch import load_file, save_file

    partial = output / "frozen.partial"
    shutil.rmtree(partial, ignore_errors=True)
    ignored = shutil.ignore_patterns("checkpoints", "metrics.jsonl", "loss.png")
    for part in ("image_encoder", "language_model"):
        shutil.copytree(output / part, partial / part, ignore=ignored)
        for weights in (partial / part).glob("*.safetensors"):
            tensors = {name: tensor.half().contiguous() for name, tensor in load_file(weights).items()}
            save_file(tensors, weights, metadata={"format": "pt"})
    config = partial / "language_model/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "float16"}, indent=2) + "\n")
    os.replace(partial, output / "frozen")


def unpack(package: Path, recipe: Recipe, output: Path) -> None:
    """The packaged weights, laid where stages look for what came before, to be trained on."""
    for name in ("audio_encoder", "audio_encoder_more"):
        (output / name).mkdir(parents=True)
        shutil.copy(package / "audio_encoder.pt", output / name / "whisper.pt")
    for name in ("ears", "ears_more", "writing"):
        (output / name / "model").mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            shutil.copy(package / file, output / name / "model")
    for packed, name in (
        ("image_codec", "image_codec/codec"),
        ("image_decoder", "image_decoder/decoder"),
        ("audio_codec", "audio_codec_more/codec"),
    ):
        shutil.copytree(package / packed, output / name)
    for part in ("language_model", "image_encoder"):  # last: where they lie, `run` takes this stage for done
        shutil.copytree(package / part, output / "frozen" / part)


def pack(recipe: Recipe, output: Path, package: Path) -> None:
    """Everything that ships, in float16, with the frozen parts named by where they lie in the package.

    What was not trained yet is left out. The diffusion decoder of sound always is: of single words, the codec's own
    decoding is judged right more often (docs/nano.md).
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    import mmlm
    from decoders.codecs.checkpoint import save_codec
    from decoders.diffusion.checkpoint import save_decoder
    from decoders.files import apply_umask
    from mmlm.assembly import Codecs, extended

    partial = package.with_name(package.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(output / "frozen", partial)
    for stage in ("thoughts", "thoughts_more", "together", "rewarded", "judging"):
        if (thinking := output / stage / "language_model").exists():
            shutil.copytree(thinking, partial / "language_model", dirs_exist_ok=True)
    compress(newest(output, "whisper.pt", *HEARD), partial / "audio_encoder.pt")
    writing = ("judging", "looking_more", "looking", "writing_last", "rewarded", "together", "writing_more")
    model = mmlm.load(newest(output, "model", *writing, "thoughts_more", "thoughts", "writing", "ears_more"))
    if "image" in model.codecs and (output / "image_decoder/decoder").exists():
        model = extended(model, Codecs(image_decoder=output / "image_decoder/decoder"))
    name = "preset:nano" if package == PACKAGE else str(package.resolve())
    model.language_model.name = f"{name}/language_model"
    model.encoders["image"].name = f"{name}/image_encoder"
    model.encoders["audio"].name = f"{name}/audio_encoder.pt"
    for modality, codec in model.codecs.items():
        save_codec(codec, partial / f"{modality}_codec", torch.float16)
        codec.name = f"{name}/{modality}_codec"
    for modality, decoder in model.decoders.items():
        save_decoder(decoder, partial / f"{modality}_decoder", torch.float16)
        decoder.name = f"{name}/{modality}_decoder"
    model.save(partial)
    with safe_open(partial / "model.safetensors", "pt") as weights:
        metadata = weights.metadata()
    tensors = {name: tensor.half() for name, tensor in load_file(partial / "model.safetensors").items()}
    save_file(tensors, partial / "model.safetensors", metadata=metadata)
    for kept in package.glob("*.md"):
        shutil.copy(kept, partial)
    apply_umask(partial)
    shutil.rmtree(package, ignore_errors=True)
    os.replace(partial, package)
    size = sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
    print(f"{package}: {size / 1e6:.1f} MB")


def newest(output: Path, name: str, *stages: str) -> Path:
    """What the last of some stages, told from the last to the first, has made so far."""
    return next(path for stage in stages if (path := output / stage / name).exists())


def compress(checkpoint: Path, packed: Path) -> None:
    """A checkpoint of torch.save with its entries deflated: torch.load reads it as it is.

    Nine in ten of Whisper's token rows are one and the same, and take no room then.
    """
    with zipfile.ZipFile(checkpoint) as whole, zipfile.ZipFile(packed, "w") as small:
        for entry in whole.infolist():
            small.writestr(zipfile.ZipInfo(entry.filename), whole.read(entry), zipfile.ZIP_DEFLATED, 9)
