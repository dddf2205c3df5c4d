"""The study's pictures: nano's drawn scenes with its packaged codec, and photographs with a codec trained on them."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from decoders.codecs.base import MediaCodec
from decoders.codecs.checkpoint import load_codec
from mmlm.training import CodecTrainConfig, train_codec
from mmlm.training.objectives.codec import quality
from recipes.diffusion_decoder.decoders import Decode, trained
from recipes.diffusion_decoder.measures import agreement, fine_power, patch_distance
from recipes.diffusion_decoder.table import compare

AT_ONCE = 50
CROWD = {"patch distance": 3, "fine detail": 2, "codes kept": 3, "ms a picture": 1}  # columns, and their digits


def study_drawings(output: Path, held_out: int, written: int, seeds: int, steps: int) -> None:
    """Train on nano's codec; print the tables of scenes through their codes, and of pictures that nano draws."""
    codec, training, real = nano(output, held_out)
    ways = study("nano", codec, training, real, output, seeds, steps)
    print(f"\n### nano: {written} pictures drawn by the language model for captions of held-out scenes\n")
    compare_pictures(codec, drawn_codes(written), real, ways, paired=False)


def study_photographs(output: Path, sets: Path, held_out: int, codec_steps: int, seeds: int, steps: int) -> None:
    """Train a codec and the decoders; print the table of photographs through their codes."""
    study("flickr8k", *flickr8k(output, sets, held_out, codec_steps), output, seeds, steps)


def study(
    name: str, codec: MediaCodec, training: list[str], real: Tensor, output: Path, seeds: int, steps: int
) -> dict[str, list[Decode]]:
    """Train, and print the table of real pictures [N, 3, H, W] through their codes; gives the ways to decode."""
    ways = trained(codec, training, output, seeds, steps)
    codes = torch.cat([codec.encode(batch).codes for batch in real.split(AT_ONCE)])
    print(f"\n### {name}: {len(real)} held-out pictures, decoders of {steps} steps, {seeds} seeds\n")
    compare_pictures(codec, codes, real, ways, paired=True)
    floor = patch_distance(*real.tensor_split(2))
    print(f"\nReal against real: the patches of one half of the pictures are {floor:.3f} from those of the other.")
    return ways


@torch.no_grad()
def compare_pictures(
    codec: MediaCodec, codes: Tensor, real: Tensor, ways: dict[str, list[Decode]], paired: bool
) -> None:
    """Print the table of all ways to decode codes; `paired`: they are those of the real pictures, one by one."""
    fine = fine_power(real)

    def measure(decode: Decode) -> list[float]:
        began = time.perf_counter()
        made = torch.cat([decode(batch) for batch in codes.split(AT_ONCE)])
        spent = 1000 * (time.perf_counter() - began) / len(codes)
        own = [quality(codec, made, real)["psnr"]] if paired else []
        return [*own, patch_distance(made, real), fine_power(made) / fine, agreement(codec, made, codes), spent]

    compare(ways, {"PSNR, dB": 2, **CROWD} if paired else CROWD, measure, "patch distance")


def nano(output: Path, count: int) -> tuple[MediaCodec, list[str], Tensor]:
    """The packaged codec, drawn scenes with emoji to learn from, and scenes of unseen layouts."""
    import mmlm
    from recipes.nano import data
    from recipes.nano.drawing import examples, side_of, stacked

    codec = mmlm.load("nano").codecs["image"]
    side = side_of(codec)
    data.write_scenes(output / "scenes", {"train": 20_000}, seed=0, settled=True, side=side)
    training, _ = data.drawing_sources(output / "scenes", data.sets_folder())
    return codec, training, stacked(examples("dev", count, 0, side)[0], side)


def drawn_codes(count: int) -> Tensor:
    """Codes [N, K, h, w] that nano writes for captions of unseen layouts."""
    import mmlm
    from mmlm.tasks.draw import sampled, written_codes
    from recipes.nano import data
    from recipes.nano.drawing import TEMPERATURE
    from recipes.nano.scenes import Scene
    from recipes.nano.wording import listed

    model = mmlm.load("nano")
    texts = [listed(Scene.from_dict(data.scene_example("dev", index, 0)[1]["scene"])) for index in range(count)]
    found = []
    for first in range(0, count, 32):
        options = sampled(1, TEMPERATURE, None, None, first)
        drawn = written_codes(model, "image", texts[first : first + 32], options)
        found += [result.media[0].codes for (result,) in drawn]
    return torch.stack(found)


def flickr8k(output: Path, sets: Path, count: int, codec_steps: int) -> tuple[MediaCodec, list[str], Tensor]:
    """A codec of 64 × 64 photographs, 8 × 8 places with two codes of 512 each, trained here; its photographs."""
    from decoders.codecs.image_vqvae import ImageVQVAE, ImageVQVAEConfig
    from decoders.codecs.quantizer import QuantizerConfig
    from mmlm.data import read_records
    from recipes.nano.drawing import side_of, stacked

    training = [f"{sets}/train-*.tar"]
    if not (output / "codec/codec/config.json").exists():
        torch.manual_seed(0)
        codec = ImageVQVAE(ImageVQVAEConfig(width=64, quantizer=QuantizerConfig("rvq", 512, 2)))
        config = CodecTrainConfig(steps=codec_steps, learning_rate=2e-3)
        train_codec(codec, training, output / "codec", f"{sets}/dev-*.tar", config)
    codec = load_codec(output / "codec/codec")
    shown = stacked((record.decode() for record in read_records(f"{sets}/dev-*.tar")[:count]), side_of(codec))
    return codec, training, shown
