"""The adapters: cross-attention to pictures, beside frozen parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recipes.nano import data
from recipes.nano.settings import Recipe

if TYPE_CHECKING:
    from mmlm import MultimodalLM


def train_adapters(recipe: Recipe, output: Path) -> None:
    import mmlm
    from mmlm.model.config import FusionConfig, ResamplerConfig

    part = recipe.adapters
    model = mmlm.assemble(
        output / "frozen/language_model",
        output / "frozen/image_encoder",
        resampler=ResamplerConfig(depth=0),  # 64 tokens are few, and each tells where it is
        fusion=FusionConfig(heads=part.heads, dim_head=part.dim_head),
        device=recipe.device,
        seed=recipe.seed,
    )
    fit(model, recipe, output, "adapters", picture_data(output, "scenes"), part.steps, part.learning_rate)


def settle_adapters(recipe: Recipe, output: Path) -> None:
    import mmlm

    part = recipe.adapters
    model = mmlm.load(output / "adapters/model", device=recipe.device)
    pictures = picture_data(output, "settled")
    fit(model, recipe, output, "adapters_settled", pictures, part.settling_steps, part.settling_rate, seed=1)


def picture_data(output: Path, scenes: str) -> tuple[list[str], Path]:
    """Training and held-out tars of pictures; `scenes` names the folder of the drawn ones."""
    return data.adapter_sources(output / scenes, data.sets_folder()), output / scenes / "dev-*.tar"


def fit(
    model: MultimodalLM,
    recipe: Recipe,
    output: Path,
    folder: str,
    sources: tuple[list[str], Path],
    steps: int,
    learning_rate: float,
    batch_size: int | None = None,
    seed: int = 0,
) -> None:
    """Train into `output/folder` on `sources`, training and held out; `seed` is added to the recipe's."""
    import mmlm

    training, held_out = sources
    mmlm.train(
        model,
        training,
        output=output / folder,
        held_out=held_out,
        steps=steps,
        batch_size=batch_size or recipe.adapters.batch_size,
        optimizer="muon",
        learning_rate=learning_rate,
        gate_learning_rate_scale=recipe.adapters.gate_learning_rate_scale,
        caption_share=recipe.adapters.caption_share,
        precision="auto",
        eval_every=500,
        save_every=250,
        cache=str(output / "features"),
        seed=recipe.seed + seed,
    )
