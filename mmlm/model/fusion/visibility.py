"""Which text tokens may attend to which media."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Visibility = Literal["latest", "group", "all"]


@dataclass
class MediaView:
    """What the text of one pass may attend to; None means no restriction.

    mask: broadcasts to `[R, 1, T, M]`, True where a token may attend to a latent.
    blind: `[R·n, T, 1]`, True for tokens that see no media. Their mask is open, because a softmax over no keys is
        undefined, and their attention output is set to zero.
    """

    mask: Tensor | None = None
    blind: Tensor | None = None


def visible_media(
    media_time: Tensor, group_time: Tensor, item_group: Tensor, visibility: Visibility, others: Tensor | None = None
) -> Tensor:
    """Which text token may attend to which media item: bool `[R, T, N]`.

    media_time: `[R, T]`, the number of media tokens up to and including each position.
    group_time: `[R, T]`, the number of runs of consecutive media tokens up to and including each position.
    item_group: `[R, N]`, the run of each item, from 1; 0 for items that have not come yet.
    others: `[R, T]`, how many items of the row belong to texts before that of each position; None for none.
    visibility: "latest" shows a token the last item before it, "group" the items of the last run, "all" every item so
        far. A later item is never seen.
    """
    order = torch.arange(1, item_group.shape[1] + 1, device=media_time.device)
    earlier = (order <= media_time.unsqueeze(-1)) & (item_group > 0).unsqueeze(1)
    if others is not None:
        earlier &= order > others.unsqueeze(-1)
    if visibility == "all":
        return earlier
    if visibility == "group":
        return earlier & (item_group.unsqueeze(1) == group_time.unsqueeze(-1))
    return earlier & (order == media_time.unsqueeze(-1))
