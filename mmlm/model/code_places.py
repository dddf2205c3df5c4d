"""The position of each token within the image that a request writes."""

from __future__ import annotations

import torch
from torch import Tensor

from mmlm.prompting.code_layout import CodeSpan


class CodePlaces:
    """The position of each token within its image, tracked over the passes of one request.

    span: the ids of image codes; None for a model that writes no images.
    """

    def __init__(self, span: CodeSpan | None) -> None:
        self.span = span
        self._since: Tensor | None = None  # [R]: tokens since the last opening boundary

    def of(self, ids: Tensor) -> Tensor | None:
        """Positions of the next ids `[R, T]` of the request, `[R, T]`; None for a model that writes no images.

        0 at the opening boundary, n at the n-th code, −1 outside an image.
        """
        if self.span is None:
            return None
        step = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        opened = torch.where(ids == self.span.begin, step, -1).cummax(1).values
        before = ids.new_full((len(ids),), self.span.layout.rows) if self._since is None else self._since
        since = torch.where(opened >= 0, step - opened, before.unsqueeze(1) + step + 1)
        if self._since is None:
            self._since = since[:, -1].clone()
        else:
            self._since.copy_(since[:, -1])  # in place: a recorded step reads this memory
        inside = (ids >= self.span.begin) & (ids < self.span.begin + self.span.layout.rows) & (ids != self.span.end)
        return torch.where(inside, since, -1)

    @classmethod
    def of_rows(cls, span: CodeSpan | None, since: Tensor) -> CodePlaces:
        """Those of rows that write on together. since: `[R]`, of each row; kept up to date in this memory."""
        places = cls(span)
        places._since = since
        return places

    def since(self, row: int) -> int:
        """Tokens of a row since the last opening boundary."""
        return 0 if self._since is None else int(self._since[row])

    def repeat(self, times: int) -> None:
        """From now on each row is given `times` times in succession."""
        if self._since is not None:
            self._since = self._since.repeat_interleave(times)

    def reorder(self, index: Tensor) -> None:
        """From now on row i continues what was row `index[i]`; index `[R]`."""
        if self._since is not None:
            self._since.copy_(self._since[index])  # in place: a recorded step reads this memory
