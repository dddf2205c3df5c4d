"""The adapters once more, for pictures and recordings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recipes.nano import data
from recipes.nano.settings import Recipe
from recipes.nano.stages.adapters import fit, picture_data

if TYPE_CHECKING:
    from mmlm import MultimodalLM


def train_ears(recipe: Recipe, output: Path) -> None:
    """The picture model's adapters with rows and a resampler for sound beside what they have, trained on both."""
    model = hearing(recipe, output, output / "adapters_settled/model", output / "audio_encoder/whisper.pt")
    part = recipe.ears
    sources = hearing_data(output, picture_passes=1)
    fit(model, recipe, output, "ears", sources, part.steps, part.learning_rate, part.batch_size, seed=2)


def train_ears_more(recipe: Recipe, output: Path) -> None:
    """The same adapters before the audio encoder of more steps; two of three examples are pictures, to forget none."""
    model = hearing(recipe, output, output / "ears/model", output / "audio_encoder_more/whisper.pt")
    part = recipe.ears
    sources = hearing_data(output, picture_passes=2)
    fit(model, recipe, output, "ears_more", sources, part.more_steps, part.learning_rate, part.batch_size, seed=3)


def hearing(recipe: Recipe, output: Path, start: Path, audio_encoder: Path) -> MultimodalLM:
    """The frozen parts with this audio encoder, and the adapters of the model at `start`, new where it has none."""
    import torch

    import mmlm
    from mmlm.model.config import FusionConfig, ResamplerConfig

    earlier = mmlm.load(start)
    model = mmlm.assemble(
        output / "frozen/language_model",
        output / "frozen/image_encoder",
        audio_encoder=audio_encoder,
        resampler=earlier.resampler_config,
        audio_resampler=ResamplerConfig(depth=0, timed=True, stack=recipe.ears.stack),
        # A question and the picture that it is about are one group, and both are needed.
        fusion=FusionConfig(heads=recipe.adapters.heads, dim_head=recipe.adapters.dim_head, visibility="group"),
        device=recipe.device,
        seed=recipe.seed,
    )
    own = dict(model.added_parameters())
    with torch.no_grad():
        for name, tensor in earlier.added_parameters():
            own[name][: len(tensor)] = tensor.to(own[name].device)
    return model


def hearing_data(output: Path, picture_passes: int) -> tuple[list[str], Path]:
    """Pictures, each seen so often in a pass, and recordings."""
    pictures, _ = picture_data(output, "settled")
    recordings = data.hearing_sources(output / "speech", output / "spoken", data.sets_folder())
    return [*pictures * picture_passes, *recordings], output / "spoken/dev-*.tar"
