"""Captions of pictures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmlm.prompting.templates import demonstrations

if TYPE_CHECKING:
    from mmlm.model.network import MultimodalNetwork
from mmlm.tasks.generate import generate
from mmlm.tasks.rows import _stripped


def caption(model: "MultimodalNetwork", images: Any, examples: Sequence[tuple[Any, str]] = (), **options: Any) -> Any:
    """A caption of a picture (path, bytes, PIL, array), or of each of a list.

    `examples` are (picture, caption) demonstrations for few-shot prompts, most similar last.
    """
    shots = demonstrations([(model.template.caption_prompt(image), text) for image, text in examples])
    batch = isinstance(images, (list, tuple))
    prompts = [[*shots, *model.template.caption_prompt(image)] for image in (images if batch else [images])]
    return _stripped(generate(model, prompts, **options), batch)
