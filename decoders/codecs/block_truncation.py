"""Block truncation coding of pictures (Delp & Mitchell 1979), by codebooks (Udpikar & Raina 1987): no network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from decoders.codecs.base import MediaCodec
from decoders.codecs.kmeans import kmeans, nearest
from decoders.values import check_kinds, check_least

LEAST_CONTRAST = 0.02  # of a block's two colours, in 0..1: below it, the mask tells next to nothing
ROUNDS = 15  # of k-means


@dataclass(frozen=True)
class BlockTruncationConfig:
    """Sizes. A picture of `size` × `size` pixels has `places` × `places` blocks, each with 2 + `refinements` codes."""

    size: int = 128  # pixels per side
    places: int = 3  # blocks per side
    mask_size: int = 16  # values per side of a block's mask
    codebook_size: int = 1024
    refinements: int = 2  # codes of what two colours and a mask leave open, each of the residual of the one before
    components: int = 48  # principal components in which that residual is told
    threshold: float = 1e-3  # mean square of a residual, in 0..1, below which its code is 0, "nothing"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_least(self, size=1, places=1, mask_size=2, codebook_size=2, refinements=0, components=1, threshold=0)
        if self.size < self.places:
            raise ValueError(f"size ({self.size}) must not be below places ({self.places})")
        if self.refinements and self.components > 3 * self.mask_size**2:
            raise ValueError(
                f"components ({self.components}) are at most 3 · mask_size² ({3 * self.mask_size**2}), the values of a "
                "block: give fewer, or a larger mask_size"
            )


class BlockTruncationCodec(MediaCodec):
    """Pictures [B, 3, size, size] in 0..1 ↔ codes [B, 2 + refinements, places, places].

    Of each block: its two colours, the ground's first; a mask that says how much of the other colour each of its values
    has; and what these leave open. What a thing looks like and in which colour are codes of their own, so that a
    language model can write a thing in a colour that it never saw it in. The codebooks are learned by k-means.
    """

    modality = "image"
    colours: Tensor  # [codebook_size, 6]: red, green, blue of the ground and of the other
    masks: Tensor  # [codebook_size, mask_size²] in 0..1
    components: Tensor  # [3 · mask_size², components], orthonormal
    residuals: Tensor  # [refinements, codebook_size, components]; the first of each is 0

    def __init__(self, config: BlockTruncationConfig = BlockTruncationConfig()) -> None:
        super().__init__()
        self.config = config
        self.size, self.downsample = config.size, config.size // config.places
        self.codebook_size, self.num_codebooks = config.codebook_size, 2 + config.refinements
        values = config.mask_size**2
        self.latent_dim = 6 + values + config.components
        self.register_buffer("colours", torch.zeros(config.codebook_size, 6))
        self.register_buffer("masks", torch.zeros(config.codebook_size, values))
        self.register_buffer("components", torch.zeros(3 * values, config.components))
        self.register_buffer("residuals", torch.zeros(config.refinements, config.codebook_size, config.components))

    @property
    def grid(self) -> tuple[int, int]:
        return self.config.places, self.config.places

    @classmethod
    @torch.no_grad()
    def learn(
        cls, pictures: Tensor, config: BlockTruncationConfig = BlockTruncationConfig(), seed: int = 0
    ) -> BlockTruncationCodec:
        """Learn the codebooks from pictures [N, 3, size, size] in 0..1, on their device.

        seed: draws what k-means starts from. Codes that no block needs stand for 0. ValueError for pictures of another
        size or range, or with values that are not finite.
        """
        codec = cls(config).to(pictures.device)
        codec._check_media(pictures)
        draw = torch.Generator().manual_seed(seed)
        blocks = codec._blocks(pictures.float())
        colours, masks = truncated(blocks)
        _learn(codec.colours, colours, draw)
        _learn(codec.masks, masks, draw)
        found = codec.colours[nearest(colours, codec.colours)], codec.masks[nearest(masks, codec.masks)]
        residual = blocks - joined(*found)
        residual = residual[residual.square().mean((1, 2)) >= config.threshold].flatten(1)
        if config.refinements:
            values, vectors = torch.linalg.eigh(residual.T @ residual)
            codec.components.copy_(vectors[:, values.argsort(descending=True)[: config.components]])
            residual = residual @ codec.components
        for book in codec.residuals:
            _learn(book[1:], residual, draw)
            residual = residual - book[nearest(residual, book)]
        return codec.requires_grad_(False).eval()

    def _blocks(self, media: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] → blocks [B · places², mask_size², 3]."""
        places, side = self.config.places, self.config.mask_size
        small = F.interpolate(media, places * side, mode="bilinear", antialias=True)
        return small.unflatten(3, (places, side)).unflatten(2, (places, side)).permute(0, 2, 4, 3, 5, 1).reshape(
            -1, side**2, 3
        )  # fmt: skip

    def _encode(self, media: Tensor) -> tuple[Tensor, Tensor, None]:
        blocks = self._blocks(media)
        own_colours, own_masks = truncated(blocks)
        found = [nearest(own_colours, self.colours), nearest(own_masks, self.masks)]
        residual = (blocks - joined(self.colours[found[0]], self.masks[found[1]])).flatten(1)
        told = residual.square().mean(1) >= self.config.threshold
        residual = residual @ self.components
        for book in self.residuals:
            found.append(torch.where(told, nearest(residual, book), 0))
            residual = residual - book[found[-1]]
        codes = torch.stack(found, 1).unflatten(0, (len(media), *self.grid)).permute(0, 3, 1, 2)
        return codes, self._latents(codes), None

    def _latents(self, codes: Tensor) -> Tensor:
        colours, masks, *residuals = codes.unbind(1)
        residual = self.colours.new_zeros(*colours.shape, self.config.components)
        for book, own in zip(self.residuals, residuals, strict=True):
            residual = residual + book[own]
        return torch.cat([self.colours[colours], self.masks[masks], residual], -1).movedim(-1, 1)

    def _decode(self, latents: Tensor) -> Tensor:
        places, side = self.config.places, self.config.mask_size
        colours, masks, residual = latents.movedim(1, -1).split([6, side**2, self.config.components], -1)
        blocks = joined(colours, masks) + (residual @ self.components.T).unflatten(-1, (side**2, 3))
        small = blocks.unflatten(3, (side, side)).permute(0, 5, 1, 3, 2, 4).reshape(
            len(latents), 3, places * side, places * side
        )  # fmt: skip
        return F.interpolate(small, self.config.size, mode="bilinear")


def truncated(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks [N, V², 3] → two colours [N, 6] and a mask [N, V²] that says where between them each value lies.

    The colours are the ends of the block on the line along which its values differ most. The first is the ground: the
    one that the block's border is nearer to.
    """
    mean = blocks.mean(1, keepdim=True)
    apart = blocks - mean
    line = torch.linalg.eigh(apart.transpose(1, 2) @ apart)[1][..., -1:]  # [N, 3, 1]
    along = (apart @ line)[..., 0]
    middle = (along.amax(1) + along.amin(1)) / 2
    side = torch.where(_border(along).mean(1) > middle, -1.0, 1.0)
    along, line = along * side[:, None], line[..., 0] * side[:, None]
    least, most = along.amin(1, keepdim=True), along.amax(1, keepdim=True)
    colours = torch.cat([mean[:, 0] + least * line, mean[:, 0] + most * line], 1)
    return colours, (along - least) / (most - least).clamp(min=LEAST_CONTRAST)


def joined(colours: Tensor, masks: Tensor) -> Tensor:
    """Two colours [..., 6] and masks [..., V²] → blocks [..., V², 3]; the inverse of `truncated` on the line."""
    ground, other = colours.unsqueeze(-2).chunk(2, -1)
    return ground + masks.unsqueeze(-1) * (other - ground)


def _learn(book: Tensor, vectors: Tensor, draw: torch.Generator) -> None:
    """Fill a codebook [C, D] with the centres of vectors [N, D], as far as there are so many different ones."""
    if len(vectors):
        centres = kmeans(vectors, len(book), ROUNDS, draw)
        book[: len(centres)] = centres


def _border(values: Tensor) -> Tensor:
    """Values [N, V²] → those of the first and last rows and columns, [N, 4 V]."""
    square = values.unflatten(1, (int(values.shape[1] ** 0.5),) * 2)
    return torch.cat([square[:, 0], square[:, -1], square[:, :, 0], square[:, :, -1]], 1)
