"""What verbs share: one input or a list of them, rows out of columns."""

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


def _rows(**columns: Any) -> tuple[list[tuple], bool]:
    """Columns, each a list or one value for all rows, → rows, and whether there was a list at all."""
    lists = {name: value for name, value in columns.items() if isinstance(value, list)}
    lengths = {name: len(value) for name, value in lists.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(" but ".join(f"{length} {name}" for name, length in lengths.items()))
    count = next(iter(lengths.values()), 1)
    whole = [lists.get(name, [value] * count) for name, value in columns.items()]
    return list(zip(*whole, strict=True)), bool(lists)


def _stripped(texts: list[Any], batch: bool) -> Any:
    texts = [[t.strip() for t in text] if isinstance(text, list) else text.strip() for text in texts]
    return texts if batch else texts[0]


def _is_batch(prompt: Any) -> bool:
    """A list of lists of parts is a batch; a string or a list of parts is one prompt."""
    if isinstance(prompt, (list, tuple)):
        nested = [isinstance(part, (list, tuple)) for part in prompt]
        if any(nested) and not all(nested):
            raise TypeError("a batch of prompts is a list of lists of parts; here lists and parts are mixed")
        return any(nested) or not prompt
    if isinstance(prompt, (str, PurePath)):
        return False
    raise TypeError(f"a prompt is a list of parts (text, images), not {type(prompt).__name__}")
