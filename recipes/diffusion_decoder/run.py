"""Whether a diffusion decoder helps: the table of docs/diffusion-decoder.md, trained and printed.

    python -m recipes.diffusion_decoder.run nano            # nano's codec, drawn scenes: about an hour on one core
    python -m recipes.diffusion_decoder.run flickr8k        # a codec of photographs, trained first
    python -m recipes.diffusion_decoder.run nano --steps 50 --seeds 1 --pictures 40 --output /tmp/try

On one frozen codec, from the same pictures and for as many steps, are trained: the diffusion decoder, and as its
control the same network asked for the detail at once, without noise (the mean of what the codes leave open, which
blurs). Each from several seeds; intervals are 95% of Student's t over the seeds. Pictures measured are held out.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from decoders.base import MediaCodec
from decoders.checkpoint import load_codec, load_decoder
from decoders.diffusion import DiffusionDecoder, DiffusionDecoderConfig
from mmlm.training.codec import CodecTrainConfig, quality, train_codec, train_decoder
from recipes.diffusion_decoder.measures import agreement, fine_power, patch_distance

ROOT = Path(__file__).resolve().parents[2]
STEPS = (1, 2, 4, 8, 16)
BATCH = 16  # pictures a training step
CONSISTENCY = 4.0  # how much it counts in training that the codes stay what they are
AT_ONCE = 50
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 95%, two-sided, by the number of seeds

Decode = Callable[[Tensor], Tensor]


class DeterministicDecoder(DiffusionDecoder):
    """The same network without noise: at once to the mean of what the codes leave open."""

    def loss(self, media: Tensor, codes: Tensor, draw: torch.Generator, *others: float) -> Tensor:
        """Mean square error of the predicted media; no row loses its condition, which here would be all that it has."""
        with torch.no_grad():
            target, condition = self.detail(media, codes)
        return F.mse_loss(self._at_once(condition, target), target)

    @torch.no_grad()
    def decode(self, codes: Tensor, steps: int = 1, seed: int = 0, length: int | None = None) -> Tensor:
        plain = self.codec.decode(codes)
        condition, canvas, level = self.condition(self.codec.codes_to_latents(codes), plain)
        return self.media(canvas + self.scale * self._at_once(condition, canvas), plain, level)

    def _at_once(self, condition: Tensor, like: Tensor) -> Tensor:
        return self.predict(torch.zeros_like(like), like.new_ones(len(like)), condition)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=("nano", "flickr8k"))
    parser.add_argument("--seeds", type=int, default=3, choices=(1, *STUDENT))
    parser.add_argument("--steps", type=int, default=1500, help="training steps of each decoder, of 16 pictures")
    parser.add_argument("--codec-steps", type=int, default=2000, help="of the codec of photographs")
    parser.add_argument("--pictures", type=int, default=500, help="held-out pictures that are measured")
    parser.add_argument("--output", type=Path, default=ROOT / "runs/diffusion_decoder")
    arguments = parser.parse_args()
    output = arguments.output / arguments.set
    codec, training, held_out = (nano if arguments.set == "nano" else flickr8k)(output, arguments)
    real = held_out[: arguments.pictures]
    codes = torch.cat([codec.encode(batch).codes for batch in real.split(AT_ONCE)])
    ways = trained(codec, training, output, arguments.seeds, arguments.steps)
    print(f"\n### {arguments.set}: {len(real)} held-out pictures, decoders of {arguments.steps} steps, "
          f"{arguments.seeds} seeds\n")  # fmt: skip
    compare(codec, codes, real, ways, paired=True)
    floor = patch_distance(*real.tensor_split(2))
    print(f"\nReal against real: the patches of one half of the pictures are {floor:.3f} from those of the other.")
    if arguments.set == "nano":
        drawn = sampled_codes(min(200, len(real)))
        print(f"\n### nano: {len(drawn)} pictures drawn by the language model for captions of held-out scenes\n")
        compare(codec, drawn, real, ways, paired=False)


def nano(output: Path, arguments: argparse.Namespace) -> tuple[MediaCodec, list[str], Tensor]:
    """The packaged codec, drawn scenes with emoji to learn from, and scenes of unseen layouts."""
    from recipes.nano import data
    from recipes.nano.drawing import stacked

    data.write_scenes(output / "scenes", {"train": 20_000}, seed=0, settled=True)
    training, _ = data.drawing_sources(output / "scenes", data.sets_folder())
    shown = stacked(data.scene_example("dev", index, 0)[0] for index in range(arguments.pictures))
    return load_codec(ROOT / "mmlm/nano/image_codec"), training, shown


def flickr8k(output: Path, arguments: argparse.Namespace) -> tuple[MediaCodec, list[str], Tensor]:
    """A codec of 64 × 64 photographs, 8 × 8 places with two codes of 512 each, trained here; its photographs."""
    from decoders.image_vqvae import ImageVQVAE, ImageVQVAEConfig
    from decoders.quantizer import QuantizerConfig
    from mmlm.data import read_records
    from recipes.nano.drawing import stacked

    sets = Path(os.environ.get("MMLM_DATA", "../shared/data")) / "flickr8k"
    if not sets.is_dir():
        raise SystemExit(f"no photographs in {sets}: set MMLM_DATA to the folder that holds flickr8k")
    training = [f"{sets}/train-*.tar"]
    if not (output / "codec/codec/config.json").exists():
        torch.manual_seed(0)
        codec = ImageVQVAE(ImageVQVAEConfig(width=64, quantizer=QuantizerConfig("rvq", 512, 2)))
        config = CodecTrainConfig(arguments.codec_steps, learning_rate=2e-3)
        train_codec(codec, training, output / "codec", f"{sets}/dev-*.tar", config)
    shown = stacked(record.decode() for record in read_records(f"{sets}/dev-*.tar")[: arguments.pictures])
    return load_codec(output / "codec/codec"), training, shown


def trained(codec: MediaCodec, training: list[str], output: Path, seeds: int, steps: int) -> dict[str, list[Decode]]:
    """Ways of decoding, each once for every seed; what is trained already is read."""
    found: dict[str, list[Decode]] = {"the codec's own": [codec.decode]}
    for kind in (DeterministicDecoder, DiffusionDecoder):
        decoders = []
        for seed in range(seeds):
            folder = output / f"{'deterministic' if kind is DeterministicDecoder else 'diffusion'}_{seed}"
            if not (folder / "decoder/config.json").exists():
                torch.manual_seed(seed)
                decoder = kind(codec, DiffusionDecoderConfig(channels=(32, 48, 64)))
                config = CodecTrainConfig(steps, BATCH, consistency=CONSISTENCY, seed=seed)
                train_decoder(decoder, training, folder, config=config)
            decoder = kind(codec, DiffusionDecoderConfig(channels=(32, 48, 64)))
            decoder.load_state_dict(load_decoder(folder / "decoder", codec).state_dict())
            decoders.append(decoder.eval())
        if kind is DeterministicDecoder:
            found["deterministic, same network"] = [decoder.decode for decoder in decoders]
        else:
            for count in STEPS:
                found[f"diffusion, {count} step{'s' * (count > 1)}"] = [
                    functools.partial(decoder.decode, steps=count, seed=1000 * seed)
                    for seed, decoder in enumerate(decoders)
                ]
    return found


@torch.no_grad()
def compare(codec: MediaCodec, codes: Tensor, real: Tensor, ways: dict[str, list[Decode]], paired: bool) -> None:
    """Print the table of all ways to decode codes; `paired`: they are those of the real pictures, one by one."""
    print(f"| decoder |{' PSNR, dB |' * paired} patch distance | fine detail | codes kept | ms a picture |")
    print(f"| --- |{' --- |' * paired} --- | --- | --- | --- |")
    fine, apart = fine_power(real), {}
    for name, decoders in ways.items():
        figures: list[list[float]] = []
        for decode in decoders:
            began = time.perf_counter()
            made = torch.cat([decode(batch) for batch in codes.split(AT_ONCE)])
            spent = 1000 * (time.perf_counter() - began) / len(codes)
            own = [quality(codec, made, real)["psnr"]] if paired else []
            crowd = [patch_distance(made, real), fine_power(made) / fine, agreement(codec, made, codes)]
            figures.append([*own, *crowd, spent])
        columns = [list(column) for column in zip(*figures, strict=True)]
        apart[name] = statistics.mean(columns[int(paired)])
        digits = [2] * paired + [3, 2, 3, 1]
        print(f"| {name} | {' | '.join(_interval(c, d) for c, d in zip(columns, digits, strict=True))} |", flush=True)
    diffused = apart["diffusion, 4 steps"]
    told = [f"{apart[name] / diffused:.1f} times lower than of {name}" for name in list(apart)[:2]]
    print(f"\nPatch distance of four steps: {', '.join(told)}.")


def _interval(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    half = STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean} ± {half:.{digits}f}"


def sampled_codes(count: int) -> Tensor:
    """Codes [N, K, h, w] that nano writes for captions of unseen layouts."""
    import mmlm
    from mmlm.drawing import sampled
    from mmlm.writing import generate_parts
    from recipes.nano import data
    from recipes.nano.drawing import GUIDANCE, TEMPERATURE
    from recipes.nano.scenes import Scene
    from recipes.nano.wording import listed

    model = mmlm.load("nano")
    found = []
    for index in range(count):
        text = listed(Scene.from_dict(data.scene_example("dev", index, 0)[1]["scene"]))
        prompts = [model.template.writing_prompt("image", words) for words in (text, "")]
        options = sampled(1, TEMPERATURE, None, None, index)
        rows = generate_parts(
            model, prompts[0], "image", options=options, guidance_scale=GUIDANCE, without=prompts[1]
        )
        found.append(rows[0][0].codes)
    return torch.stack(found)


if __name__ == "__main__":
    main()
