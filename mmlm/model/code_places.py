"""Where the tokens of a request stand in the pictures that they write."""

from __future__ import annotations

import torch
from torch import Tensor

from mmlm.prompting.code_layout import CodeSpan


class CodePlaces:
    """Where the tokens of a request stand in the pictures that they write; remembers from one pass to the next."""

    def __init__(self, span: CodeSpan | None) -> None:
        self.span = span
        self._since: Tensor | None = None  # tokens since the last opening boundary [R]

    def of(self, ids: Tensor) -> Tensor | None:
        """Places of ids [R, T]: 0 at the opening boundary, n at the n-th code, −1 outside; None without pictures."""
        if self.span is None:
            return None
        step = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        opened = torch.where(ids == self.span.begin, step, -1).cummax(1).values
        before = ids.new_full((len(ids),), self.span.layout.rows) if self._since is None else self._since
        since = torch.where(opened >= 0, step - opened, before.unsqueeze(1) + step + 1)
        if self._since is None:
            self._since = since[:, -1].clone()
        else:
            self._since.copy_(since[:, -1])  # where it lies, as a captured step needs
        inside = (ids >= self.span.begin) & (ids < self.span.begin + self.span.layout.rows) & (ids != self.span.end)
        return torch.where(inside, since, -1)

    def repeat(self, times: int) -> None:
        """From here on each row comes `times` times, one after the other."""
        if self._since is not None:
            self._since = self._since.repeat_interleave(times)

    def reorder(self, index: Tensor) -> None:
        """Row i goes on from what row `index[i]` was."""
        if self._since is not None:
            self._since.copy_(self._since[index])  # where it is, as a recorded step needs
