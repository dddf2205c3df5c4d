"""Which text sees which media."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Visibility = Literal["latest", "group", "all"]


@dataclass
class MediaView:
    """What the text of one pass may see.

    `mask` broadcasts to `[R, 1, T, M]`, True where seen; `blind [R·n, T, 1]` marks tokens that see nothing.

    Blind tokens get an open mask, so that no softmax runs over nothing, and their attention output is set to zero.
    None means no restriction.
    """

    mask: Tensor | None = None
    blind: Tensor | None = None


def visible_media(media_time: Tensor, group_time: Tensor, item_group: Tensor, visibility: Visibility) -> Tensor:
    """Which text sees which media item: bool `[R, T, N]`.

    `media_time [R, T]` counts the media tokens up to each position, itself included; `group_time [R, T]` counts runs of
    consecutive media tokens; `item_group [R, N]` is the run of each item, 0 for padding. A token sees item j when j is
    the latest ("latest"), of the latest run ("group"), or any earlier one ("all"); never a later one.
    """
    order = torch.arange(1, item_group.shape[1] + 1, device=media_time.device)
    earlier = (order <= media_time.unsqueeze(-1)) & (item_group > 0).unsqueeze(1)
    if visibility == "all":
        return earlier
    if visibility == "group":
        return earlier & (item_group.unsqueeze(1) == group_time.unsqueeze(-1))
    return earlier & (order == media_time.unsqueeze(-1))
