"""MultimodalLM: frozen encoders and a frozen language model, joined by a resampler and gated cross-attention."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from encoders.base import Features, FrozenEncoder
from mmlm import tasks
from mmlm.config import FrozenPart, FusionConfig, ImageEncoderPart, ModelConfig, ResamplerConfig, digest
from mmlm.fusion import Fusion, MediaContext
from mmlm.language_model import LanguageModel
from mmlm.prompt import IGNORE_INDEX, Batch, Image, Processor, PromptTemplate
from mmlm.resampler import PerceiverResampler

ENCODER_BATCH = 32


@dataclass
class Output:
    """`logits [B, T, V + added]`; with labels, `loss` is the mean in nats over the `num_tokens` labelled ones."""

    logits: Tensor
    loss: Tensor | None = None
    num_tokens: int = 0


class MultimodalLM(nn.Module):
    """Any frozen CLIP and any frozen causal language model, with what joins them.

    Only the resampler, the gated blocks and the rows of the added tokens train and are saved: `added_parameters()`.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        image_encoder: FrozenEncoder,
        resampler: ResamplerConfig | None = None,
        fusion: FusionConfig | None = None,
        template: PromptTemplate | None = None,
    ):
        super().__init__()
        resampler, fusion = resampler or ResamplerConfig(), fusion or FusionConfig()
        self.resampler_config, self.fusion_config = resampler, fusion
        self.template = template or PromptTemplate()
        self.language_model = language_model
        self.encoders = nn.ModuleDict({"image": image_encoder})
        media_dim = image_encoder.dim
        self.resamplers = nn.ModuleDict(
            {
                name: PerceiverResampler(
                    media_dim,
                    encoder.dim,
                    resampler.depth,
                    resampler.num_latents,
                    resampler.heads,
                    resampler.dim_head,
                    resampler.ff_mult,
                )
                for name, encoder in self.encoders.items()
            }
        )
        self.fusion = Fusion(
            language_model,
            media_dim,
            fusion.cross_attention_every,
            fusion.visibility,
            fusion.heads,
            fusion.dim_head,
            fusion.ff_mult,
        )
        self.processor = Processor(language_model.tokenizer, language_model.vocabulary, language_model.max_length)
        self.train(False)

    @property
    def device(self) -> torch.device:
        return self.language_model.device

    def added_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and tensors of all that was added to the frozen parts: exactly what trains and what is saved."""
        frozen = ("encoders.", "language_model.model.")
        return ((name, tensor) for name, tensor in self.named_parameters() if not name.startswith(frozen))

    # Media

    def encode_media(self, items: Sequence[Any]) -> list[Features]:
        """Each item through its frozen encoder, in batches: one Features with tokens `[1, S, D]` an item.

        Items are image parts or anything `encoders.media.load_image` reads; Features pass through. An item that is
        given several times (a demonstration, for each row of a batch) is encoded once.
        """
        sources = [item.source if isinstance(item, Image) else item for item in items]
        found: list[Features | None] = [source if isinstance(source, Features) else None for source in sources]
        encoder = self.encoders["image"]
        first = {id(source): index for index, source in reversed(list(enumerate(sources)))}
        todo = [index for index, source in enumerate(sources) if found[index] is None and first[id(source)] == index]
        for start in range(0, len(todo), ENCODER_BATCH):
            chunk = todo[start : start + ENCODER_BATCH]
            pixels = torch.stack([encoder.preprocess(sources[index]) for index in chunk])
            features = encoder.encode(pixels.to(self.device))
            for row, index in enumerate(chunk):
                mask = None if features.mask is None else features.mask[row : row + 1]
                found[index] = Features(features.tokens[row : row + 1], mask)
        return [found[first[id(source)]] for source in sources]

    def media_context(self, batch: Batch, media: Sequence[Sequence[Any]]) -> MediaContext:
        """What the batch's text may look at: `media[b]` holds the items of row b, in order.

        `ValueError` when a row has not as many items as `<image>` tokens; it is raised before anything is encoded.
        """
        rows = batch.input_ids.shape[0]
        if len(media) != rows:
            raise ValueError(f"the batch has {rows} rows, but media are given for {len(media)}")
        counts = (batch.input_ids == self.language_model.vocabulary.image_id).sum(1).tolist()
        for row, (count, items) in enumerate(zip(counts, media, strict=True)):
            if count != len(items):
                raise ValueError(f"row {row} has {count} <image> tokens but {len(items)} images")
        flat = [item for items in media for item in items]
        latents = self._resample(self.encode_media(flat)) if flat else None
        row_of = [row for row, items in enumerate(media) for _ in items]
        slot_of = [slot for items in media for slot in range(len(items))]
        index = torch.tensor([row_of, slot_of], dtype=torch.long, device=self.device).view(2, -1)
        return MediaContext(self.fusion, latents, index[0], index[1], rows)

    def _resample(self, features: list[Features]) -> Tensor:
        """Features of N items → latents `[N, L, V]`; items of unequal length are padded and masked."""
        longest = max(item.tokens.shape[1] for item in features)
        if all(item.mask is None and item.tokens.shape[1] == longest for item in features):
            mask = None
        else:
            mask = torch.cat([_padded_mask(item, longest).to(self.device) for item in features])
        padded = [F.pad(item.tokens.to(self.device), (0, 0, 0, longest - item.tokens.shape[1])) for item in features]
        return self.resamplers["image"](torch.cat(padded), mask)

    # Forward

    def forward(self, batch: Batch, media: Sequence[Sequence[Any]]) -> Output:
        """Logits of a whole batch, and its loss when it carries labels; `media` as in `media_context`."""
        batch = batch.to(self.device)
        padded = not bool(batch.attention_mask.all())
        with self.language_model.request(self.media_context(batch, media)):
            logits = self.language_model(
                batch.input_ids,
                attention_mask=batch.attention_mask if padded else None,
                position_ids=(batch.attention_mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
            ).logits
        if batch.labels is None:
            return Output(logits)
        labels = batch.labels[:, 1:]
        answer = labels != IGNORE_INDEX  # only these positions reach the softmax
        num_tokens = int(answer.sum())
        if num_tokens == 0:
            raise ValueError("no token of the batch carries a label: encode its rows with a target")
        return Output(logits, F.cross_entropy(logits[:, :-1][answer].float(), labels[answer]), num_tokens)

    # Tasks: thin verbs, in tasks.py

    def generate(self, prompt: Any, **options: Any) -> Any:
        """Text that follows a prompt of parts (text, images); see `mmlm.tasks.generate`."""
        return tasks.generate(self, prompt, **options)

    def stream(self, prompt: Any, **options: Any) -> Iterator[str]:
        """The same, piece by piece as it is written; see `mmlm.tasks.stream`."""
        return tasks.stream(self, prompt, **options)

    def caption(self, images: Any, **options: Any) -> Any:
        """A caption of a picture, or of each of a list; see `mmlm.tasks.caption`."""
        return tasks.caption(self, images, **options)

    def answer(self, images: Any, questions: Any, **options: Any) -> Any:
        """The answer to a question about a picture, or lists of both; see `mmlm.tasks.answer`."""
        return tasks.answer(self, images, questions, **options)

    # Saving

    def config(self) -> ModelConfig:
        """What rebuilds this model, with fingerprints of its frozen parts."""
        encoder = self.encoders["image"]
        return ModelConfig(
            FrozenPart(self.language_model.name, self.language_model.fingerprint()),
            ImageEncoderPart(encoder.name, encoder.fingerprint(), getattr(encoder, "final_norm", True)),
            self.resampler_config,
            self.fusion_config,
            self.template,
        )

    def save(self, folder: str | Path) -> Path:
        """Writes `model.safetensors` and `config.json`: only what was added, and the names of the frozen parts.

        Each file is written whole beside its place and then moved there; the weights carry the config's digest, so that
        two saves that met half-way are not taken for one model.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"cannot save a model to {folder}: it is a file")
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.added_parameters()}
        config = self.config().to_dict()
        text = json.dumps(config, indent=2) + "\n"
        metadata = {"format": "pt", "config": digest(config)}
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as parts:
            save_file(tensors, Path(parts, "model.safetensors"), metadata=metadata)
            Path(parts, "config.json").write_text(text)
            for name in ("model.safetensors", "config.json"):
                with open(Path(parts, name), "rb") as file:
                    os.fsync(file.fileno())
                os.replace(Path(parts, name), folder / name)
        return folder

    def push_to_hub(self, repo_id: str, private: bool = False, token: str | None = None) -> str:
        """Uploads what `save` writes to the Hugging Face hub; gives the commit's address."""
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder))


def _padded_mask(item: Features, length: int) -> Tensor:
    """Which of `length` tokens of an item are real: bool `[1, length]`."""
    real = torch.ones(item.tokens.shape[:2], dtype=torch.bool) if item.mask is None else item.mask
    return F.pad(real, (0, length - real.shape[1]))
