"""Any CLIP with a vision transformer as a frozen encoder: patch tokens, and CLIP embeddings for retrieval."""

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from encoders.base import Features, FrozenEncoder, check_device, check_tensor, fingerprint
from encoders.clip_forms.load import load_clip, load_tokenizer_of
from encoders.clip_forms.source import find_clip, lasting_name
from encoders.media.image import load_image
from encoders.texts import check_texts, tokenizing


class ClipImageEncoder(FrozenEncoder):
    """Images → the patch tokens of an open_clip vision transformer (https://github.com/mlfoundations/open_clip).

    model: an open_clip model whose image tower is a vision transformer of open_clip or timm (SigLIP, EVA). It is
        frozen and put into eval mode, and not changed otherwise. ValueError for towers without patch tokens (ResNets).
    preprocess: its eval transform, PIL RGB → [3, H, W]; None for the one that open_clip stored on the model.
    name: the name from which `load` would build this encoder; None if there is none.
    tokenizer: list[str] → ids [N, L] for `embed_texts`; None for the one that belongs to `name`, loaded when needed.
    final_norm: whether tokens pass the tower's last LayerNorm (`ln_post`). OpenFlamingo's released checkpoints were
        trained on tokens without it.
    """

    modality = "image"
    model: Any  # an open_clip model; its classes share these methods, but no base class

    def __init__(
        self,
        model: nn.Module,
        preprocess: Callable[[Image.Image], Tensor] | None = None,
        *,
        name: str | None = None,
        tokenizer: Callable[[list[str]], Tensor] | None = None,
        final_norm: bool = True,
    ) -> None:
        from open_clip.timm_model import TimmModel  # open_clip takes seconds to import, and not every model sees
        from open_clip.transform import PreprocessCfg, image_transform_v2
        from open_clip.transformer import VisionTransformer

        super().__init__()
        self.model = model
        visual = getattr(model, "visual", None)
        width = _token_width(visual)
        if width is None:
            kind = type(visual.trunk if isinstance(visual, TimmModel) else visual).__name__
            raise ValueError(
                f"the image tower of {name or type(model).__name__} is a {kind}, which has no patch tokens; choose "
                "a model with a vision transformer, such as ViT-B-32, ViT-B-16-SigLIP or MobileCLIP-B"
            )
        if final_norm and isinstance(visual, VisionTransformer) and visual.attn_pool is not None:
            raise ValueError(
                f"{name or 'this model'} applies its last norm after attention pooling, so patch tokens have no last "
                "norm; pass final_norm=False"
            )
        transform: Any = preprocess
        if transform is None:
            if not hasattr(visual, "preprocess_cfg"):
                raise ValueError("this model has no preprocessing of its own; pass preprocess=")
            transform = image_transform_v2(PreprocessCfg(**self.model.visual.preprocess_cfg), is_train=False)
        self.transform: Callable[[Image.Image], Tensor] = transform
        self.tokenizer = tokenizer
        self.name = name
        self._source = name  # where the tokenizer is found, even if the encoder is renamed later
        self.final_norm = final_norm
        self.image_size: tuple[int, int] = tuple(self.model.visual.image_size)  # height, width
        self.dim: int = width
        self.frame = _grid(visual)
        self.freeze()

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        final_norm: bool = True,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> "ClipImageEncoder":
        """Load the encoder that `name` describes; weights and tokens are of type `dtype`.

        name: "ViT-B-32/laion2b_s34b_b79k" (architecture and pretrained tag), "ViT-B-32/path/to/file.safetensors" (or
            .pt: tensors only, pickled code is refused), a folder or hub id ("google/siglip-base-patch16-224") of
            open_clip or of transformers' CLIP and SigLIP, or a file of OpenAI's ("path/to/ViT-B-32.pt").
            A file after an architecture contains no settings: it gets the default preprocessing of the architecture,
            and weights trained with QuickGELU need the "-quickgelu" architecture. All else determines both.
        ValueError for an unknown name or form, FileNotFoundError for files that are missing and cannot be fetched;
        TypeError for what is no name or no dtype.
        """
        if not isinstance(name, str | os.PathLike):
            raise TypeError(f"an image encoder is given by its name or folder, not {type(name).__name__}")
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype is one of torch's types, such as torch.bfloat16, not {dtype!r}")
        check_device(device)
        source = find_clip(str(name))
        model, preprocess = load_clip(source)
        model = model.to(device=device, dtype=dtype)
        return cls(model, preprocess, name=lasting_name(str(name), source), final_norm=final_norm)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.visual.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights and of the tokens."""
        return next(self.model.visual.parameters()).dtype

    def preprocess(self, media: Any) -> Tensor:
        """Any image source that `encoders.media.load_image` accepts → [3, H, W] float32, as the model expects it."""
        return self.transform(load_image(media))

    @torch.no_grad()
    def encode(self, batch: Tensor) -> Features:
        """Preprocessed images [N, 3, H, W] → patch tokens [N, S, D], row by row: not projected, no class token."""
        self._check(batch)
        # The tower's forward() with output_tokens gives tokens before or after the last norm, depending on a flag of
        # the model (`final_ln_after_pool`) whose default changed in open_clip 2.23. The output of the last block can be
        # had either way, without changing the model.
        output = self.model.visual.forward_intermediates(
            batch.to(self.device, self.dtype),
            indices=1,
            normalize_intermediates=self.final_norm,
            intermediates_only=True,
            output_fmt="NLC",
        )
        return Features(output["image_intermediates"][0].contiguous())

    @torch.no_grad()
    def embed_images(self, batch: Tensor) -> Tensor:
        """Preprocessed images [N, 3, H, W] → CLIP embeddings [N, E], float32, of unit length."""
        self._check(batch)
        embedding = self.model.encode_image(batch.to(self.device, self.dtype))
        if isinstance(embedding, tuple):  # from a model built with output_tokens
            embedding = embedding[0]
        return F.normalize(embedding.float(), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: list[str], *, cut: bool = False) -> Tensor:
        """N texts → CLIP embeddings [N, E], float32, of unit length; comparable with `embed_images`.

        A text beyond the model's context is cut there, with a warning unless `cut` says that it is expected.
        ValueError for one of more than 100,000 characters, with a NUL, or that is no valid Unicode.
        """
        if not (texts := check_texts(texts)):
            raise ValueError("there is no text to embed")
        if self.tokenizer is None:
            if self._source is None:
                raise ValueError("a model passed without a name needs its tokenizer to embed texts: pass tokenizer=")
            self.tokenizer = load_tokenizer(self._source)
        with tokenizing():
            tokens = self.tokenizer(texts)
        size = getattr(getattr(self.model, "text", self.model), "vocab_size", 0)
        if size and int(tokens.max()) >= size:
            raise ValueError(f"the tokenizer makes ids up to {int(tokens.max())}, and this CLIP has {size} of them")
        if not cut:
            self._warn_of_cuts(texts, tokens)
        return F.normalize(self.model.encode_text(tokens.to(self.device)).float(), dim=-1)

    def _warn_of_cuts(self, texts: list[str], tokens: Tensor) -> None:
        """Names the first text that has other tokens with room for one more, in the place of its end mark."""
        assert self.tokenizer is not None, "it made the tokens"
        length = tokens.shape[1]
        try:
            longer = self.tokenizer(texts, context_length=length + 1)  # pyright: ignore[reportCallIssue]
        except TypeError:  # a tokenizer of the caller's own
            return
        cut = (longer[:, :length] != tokens).any(1).nonzero().flatten().tolist()
        if cut:
            warnings.warn(
                f"{len(cut)} of {len(texts)} texts are longer than CLIP's context of {length} tokens, and their ends "
                f"are not looked at; the first begins {texts[cut[0]][:60]!r}",
                stacklevel=3,
            )

    def fingerprint(self) -> str:
        """16 hex characters of the weights, activations, numbers of heads, preprocessing and `final_norm`."""
        # Weights do not show the number of heads, nor the activation (GELU or QuickGELU, for example).
        modules = list(self.model.visual.modules())
        heads = [module.num_heads for module in modules if hasattr(module, "num_heads")]
        activations = sorted({type(module).__name__ for module in modules if not list(module.parameters())})
        parts = (fingerprint(self.model), preprocessing_settings(self.transform), activations, heads, self.final_norm)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def _check(self, batch: Tensor) -> None:
        check_tensor(batch, "preprocessed images [N, 3, H, W]")
        if batch.ndim != 4 or not len(batch) or tuple(batch.shape[1:]) != (3, *self.image_size):
            raise ValueError(
                f"expected preprocessed images [N, 3, {self.image_size[0]}, {self.image_size[1]}], "
                f"got {list(batch.shape)}; use preprocess() and torch.stack"
            )


def load_tokenizer(name: str) -> Callable[[list[str]], Tensor]:
    """The tokenizer of the model that `name` describes: list[str] → ids [N, L].

    ValueError for one that needs Python code of its own: a model's settings may ask for that, and it is never run.
    """
    remedy = "make it yourself, and pass it as ClipImageEncoder(model, preprocess, tokenizer=…)"
    return load_tokenizer_of(find_clip(name), remedy)


def preprocessing_settings(transform: Callable[[Image.Image], Tensor]) -> list[str]:
    """What identifies a transform in a fingerprint: the steps of a torchvision `Compose` with their settings.

    Any other callable is identified by its output for a fixed image, rounded to bfloat16.
    """
    steps = getattr(transform, "transforms", None)
    if steps is None:
        row, column, channel = np.mgrid[:192, :256, :3]
        pattern = (row * (3 + channel) + column * (5 - channel) + row * column // 7) % 256
        return [fingerprint({"picture": transform(Image.fromarray(pattern.astype(np.uint8)))})]
    found = []
    for step in steps:
        settings = {
            # Of the same mean, a config in a file makes a list, and one in code a tuple.
            name: str(list(value) if name in ("mean", "std") else value)
            for name, value in sorted(getattr(step, "__dict__", {}).items())
            if not name.startswith("_") and name != "training"
        }
        found.append(f"{getattr(step, '__name__', type(step).__name__)} {settings}")
    return found


def _grid(visual: nn.Module | None) -> int | None:
    """The number of patches that a tower makes of a picture; None where it does not tell."""
    patches = getattr(getattr(visual, "trunk", None), "patch_embed", None)
    sides = getattr(visual, "grid_size", None) or getattr(patches, "grid_size", None)
    return sides[0] * sides[1] if sides else None


def _token_width(visual: nn.Module | None) -> int | None:
    """Width of a tower's patch tokens; None if it has none."""
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    if isinstance(visual, VisionTransformer):
        return visual.positional_embedding.shape[1]
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "patch_embed") and hasattr(visual.trunk, "blocks"):
        trunk: Any = visual.trunk
        return trunk.num_features
    return None
