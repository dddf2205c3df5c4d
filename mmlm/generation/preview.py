"""A picture while its codes are being written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from PIL import Image

from mmlm.generation.constraints.codes import Place
from mmlm.generation.media import as_pictures
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.code_layout import CodeSpan

GREY = 0.5  # what is not there yet


@torch.no_grad()
def preview(
    model: MultimodalNetwork, span: CodeSpan, ids: Sequence[int], fixed: Mapping[Place, int] | None = None
) -> Image.Image:
    """The picture of its first ids, by the codec alone; what no code says yet is grey.

    ids: from the opening boundary on. fixed: codes that are given, by (codebook, step).
    """
    assert span.layout.grid is not None, "pictures have a grid"
    rows, columns = span.layout.grid
    codes = torch.full((span.layout.num_codebooks, rows * columns), -1)
    for (book, step), code in (fixed or {}).items():
        codes[book, step] = code
    for (book, step), token in zip(span.order(rows * columns), ids[1:], strict=False):
        codes[book, step] = token - span.ids_of(book).start
    known = (codes >= 0).all(0)
    last = torch.where(known, torch.arange(rows * columns), -1).cummax(0).values.clamp(min=0)
    codes = codes[:, last].clamp(min=0)  # beyond its edge the picture goes on as it is there, so that the edge is clean
    with model.changes.passing():
        pixels = model.codecs["image"].decode(codes.unflatten(1, (rows, columns))[None].to(model.device))
    there = known.view(1, 1, rows, columns).to(pixels)
    there = torch.nn.functional.interpolate(there, size=pixels.shape[2:], mode="nearest")
    return as_pictures(torch.where(there > 0, pixels, GREY))[0]
