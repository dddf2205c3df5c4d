"""Random numbers and batches that depend on the seed and the step alone, so that a resumed run draws the same ones."""

from __future__ import annotations

import torch
from torch import Tensor


def generator(seed: int, *counters: int) -> torch.Generator:
    """A generator for this seed and these counters (an epoch, a step)."""
    mixed = seed
    for counter in counters:
        mixed = (mixed * 6364136223846793005 + counter + 1442695040888963407) % 2**63
    return torch.Generator().manual_seed(mixed)


class Shuffle:
    """Batches of `batch_size` indices below `size`, in a new order each epoch; any step can be asked for at any time.

    ValueError when there are fewer examples than a batch holds.
    """

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        if size < batch_size:
            raise ValueError(f"{size} examples do not fill one batch of {batch_size}")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._epoch, self._order = -1, torch.empty(0)

    def batch(self, step: int) -> Tensor:
        """The indices [B] of one step. Examples left over at the end of an epoch wait for the next order."""
        per_epoch = self.size // self.batch_size
        epoch, index = divmod(step, per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, torch.randperm(self.size, generator=generator(self.seed, epoch))
        return self._order[index * self.batch_size : (index + 1) * self.batch_size]
