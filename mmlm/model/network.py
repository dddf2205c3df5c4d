"""MultimodalNetwork: frozen encoders and a frozen language model, joined by resamplers and a fusion.

With codecs it also writes images and audio, as codes between the words.
"""

import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoders.codecs.base import MediaCodec
from encoders.base import Features, FrozenEncoder
from mmlm.model.changes import Changing
from mmlm.model.config import DEFAULTS, FusionConfig, ResamplerConfig
from mmlm.model.features import encode_media, stack_features
from mmlm.model.fusion.interface import MediaContext, MediaItems
from mmlm.model.fusion.kinds import KINDS
from mmlm.model.head import AT_ONCE
from mmlm.model.language_model import LanguageModel
from mmlm.model.layouts import check_writing
from mmlm.model.modules import ModuleMap
from mmlm.model.output import Output
from mmlm.model.resampler import PerceiverResampler
from mmlm.model.segments import positions, separating_mask
from mmlm.prompting.parts import as_media, modality_of
from mmlm.prompting.processor import IGNORE_INDEX, Batch, Processor
from mmlm.prompting.templates import PromptTemplate
from mmlm.prompting.vocabulary import AUDIO

if TYPE_CHECKING:
    from encoders.transcription.transcriber import Transcriber


class MultimodalNetwork(Changing):
    """A frozen image encoder, a frozen audio encoder and a frozen language model, with the modules that join them.

    Only `added_parameters()` are trained and saved: the resamplers, the fusion, the rows of added tokens and codes,
    and LoRA.

    image_encoder, audio_encoder: at least one. All latents have the width of the image encoder's tokens, or of the
        audio encoder's tokens if there is no image encoder.
    resampler, audio_resampler, fusion: sizes of the added modules. template: the text around media.
    codecs: by "image" and "audio", the codecs that turn written codes into media. The language model must have been
        built with `layouts=layouts_of(codecs)`.
    decoders: by modality, diffusion decoders for the codes of these codecs.
    media_dim: width of the latents; None for that of the first encoder's tokens.
    left_out: the parts that the model has and that were not loaded, such as "audio_encoder".
    ValueError when there is no encoder, or when language model, codecs and decoders do not fit each other.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        image_encoder: FrozenEncoder | None,
        resampler: ResamplerConfig | None = None,
        fusion: FusionConfig | None = None,
        template: PromptTemplate | None = None,
        *,
        audio_encoder: FrozenEncoder | None = None,
        audio_resampler: ResamplerConfig | None = None,
        codecs: Mapping[str, MediaCodec] | None = None,
        decoders: Mapping[str, nn.Module] | None = None,
        media_dim: int | None = None,
        left_out: Collection[str] = (),
    ) -> None:
        super().__init__()
        given = {"image": image_encoder, "audio": audio_encoder}
        self.encoders = ModuleMap[FrozenEncoder]({name: part for name, part in given.items() if part is not None})
        if not self.encoders:
            raise ValueError("a model needs an image encoder, an audio encoder, or both")
        if audio_encoder is not None and AUDIO not in language_model.vocabulary.tokens:
            raise ValueError(
                "the language model has no row for <audio>: build it with added_tokens=ADDED_TOKENS_WITH_AUDIO"
            )
        self.codecs = ModuleMap[MediaCodec](codecs)
        self.decoders = ModuleMap[nn.Module](decoders)
        check_writing(self.codecs, self.decoders, language_model)
        self.resampler_config = resampler or DEFAULTS["image"]
        self.audio_resampler_config = audio_resampler or DEFAULTS["audio"]
        self.fusion_config = fusion or FusionConfig()
        self.template = template or PromptTemplate()
        self.language_model = language_model
        self.changes = language_model.changes
        self.left_out = tuple(left_out)
        self.media_dim = media_dim = media_dim or next(iter(self.encoders.values())).dim
        sizes = {"image": self.resampler_config, "audio": self.audio_resampler_config}
        self.resamplers = ModuleMap[PerceiverResampler](
            {
                name: PerceiverResampler(media_dim, encoder.dim, frame=encoder.frame, **dataclasses.asdict(sizes[name]))
                for name, encoder in self.encoders.items()
            }
        )
        self.fusion = KINDS[self.fusion_config.kind](
            self.fusion_config, language_model.hidden_size, len(language_model.blocks), media_dim,
            language_model.vocabulary,
        )  # fmt: skip
        self.fusion.check(language_model)
        self.codecs.requires_grad_(False)
        self.decoders.requires_grad_(False)
        self.processor = Processor(language_model.tokenizer, language_model.vocabulary, language_model.max_length)
        self.train(False)

    @property
    def device(self) -> torch.device:
        """The device of the language model."""
        return self.language_model.device

    def train(self, mode: bool = True) -> "MultimodalNetwork":
        """Sets the mode of the added modules; frozen parts stay in eval mode. Codecs would learn in train mode."""
        super().train(mode)
        self.codecs.eval()
        self.decoders.eval()
        return self

    def added_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and tensors of what was added to the frozen parts: exactly the tensors that are trained and saved."""
        frozen = ("encoders.", "codecs.", "decoders.", "language_model.model.")
        return ((name, tensor) for name, tensor in self.named_parameters() if not name.startswith(frozen))

    # Media

    def encode_media(self, items: Sequence[Any]) -> list[Features]:
        """Encodes each item by the frozen encoder of its modality: one Features with tokens `[1, S, D]` per item.

        Items are media parts, or anything that `as_media` makes one of; Features are returned unchanged. An item that
        occurs several times, such as a demonstration in each row of a batch, is encoded once.
        ValueError when the model has no encoder for an item's modality; TypeError for an item that is not media.
        """
        return encode_media(self.encoders, items)

    def media_context(self, batch: Batch, media: Sequence[Sequence[Any]]) -> MediaContext:
        """The media that the text of a batch may attend to; `media[b]` holds the items of row b, in order.

        ValueError when a row's items do not agree in number and modality with its `<image>` and `<audio>` tokens; it
        is raised before anything is encoded.
        """
        rows = batch.input_ids.shape[0]
        modalities = self._media_modalities(batch, media)
        flat = [item for items in media for item in items]
        row_of = [row for row, items in enumerate(media) for _ in items]
        slot_of = [slot for items in media for slot in range(len(items))]
        index = torch.tensor([row_of, slot_of], dtype=torch.long, device=self.device).view(2, -1)
        with self.language_model.accelerated():
            wide = torch.float32 if self.language_model.is_wide else None
            if not flat:
                return self.fusion.context(rows, dtype=wide)
            latents, mask = self._resample(self.encode_media(flat), modalities)
            return self.fusion.context(rows, MediaItems(latents, index[0], index[1], mask), wide)

    def media_positions(self, modality: str, tokens: int) -> int:
        """How many positions of the text an item takes for which its encoder gives so many tokens."""
        return self.fusion.positions(self.resamplers[modality].count(tokens))

    def _media_modalities(self, batch: Batch, media: Sequence[Sequence[Any]]) -> list[str]:
        """The modality of each item of the batch, after a check that each row's items match its media tokens."""
        rows = batch.input_ids.shape[0]
        if len(media) != rows:
            raise ValueError(f"the batch has {rows} rows, but media are given for {len(media)}")
        modality_of_id = self.language_model.vocabulary.media_ids
        modalities: list[str] = []
        ids = batch.input_ids.cpu()
        marked = torch.isin(ids, self.fusion.media_ids)
        for row, items in enumerate(media):
            places = [modality_of_id[token] for token in ids[row, marked[row]].tolist()]
            given = [  # computed features have no modality of their own: they take that of their token
                (places[slot] if slot < len(places) else "image")
                if isinstance(item, Features)
                else modality_of(as_media(item))
                for slot, item in enumerate(items)
            ]
            for name, things in (("image", "images"), ("audio", "sounds")):
                if places.count(name) != given.count(name):
                    raise ValueError(
                        f"row {row} has {places.count(name)} <{name}> tokens but {given.count(name)} {things}"
                    )
            if places != given:
                raise ValueError(f"row {row} has places for {places}, in this order, but its media are {given}")
            modalities += places
        return modalities

    def _resample(self, features: list[Features], modalities: list[str]) -> tuple[Tensor, Tensor | None]:
        """Features of N items → latents `[N, L, V]`, L of the longest item, and mask `[N, L]`, None if all are real."""
        placed: list[tuple[list[int], Tensor, Tensor | None]] = []
        for modality, resampler in self.resamplers.items():
            own = [index for index, found in enumerate(modalities) if found == modality]
            if not own:
                continue
            tokens, mask, times = stack_features([features[index] for index in own], self.device)
            latents = resampler(tokens, mask, times)
            placed.append((own, latents, resampler.latent_mask(mask)))
        if len(placed) == 1:
            return placed[0][1:]
        longest = max(latents.shape[1] for _, latents, _ in placed)
        masks = [
            F.pad(
                torch.ones(latents.shape[:2], dtype=torch.bool, device=self.device) if mask is None else mask,
                (0, longest - latents.shape[1]),
            )
            for _, latents, mask in placed
        ]
        padded = torch.cat([F.pad(latents, (0, 0, 0, longest - latents.shape[1])) for _, latents, _ in placed])
        order = torch.tensor([index for own, _, _ in placed for index in own], device=self.device).argsort()
        return padded[order], torch.cat(masks)[order]

    # Forward

    def forward(
        self,
        batch: Batch,
        media: Sequence[Sequence[Any]],
        codes: bool = False,
        lora: bool | None = None,
        logits: bool = True,
    ) -> Output:
        """Logits of a batch, and its loss when it has labels. media: as in `media_context`.

        Logits are of the positions that the batch has with its media in place, see `MediaContext.placed`.

        codes: whether the batch may hold codes, whose logits come last. lora: whether the low-rank adapters act; None:
        only with `codes`, unless they read. logits: False where the loss alone is wanted: of a large vocabulary they
        are then computed some at a time, and none is kept.
        ValueError when media do not match the batch, or labels are given but no token has one.
        """
        with self.changes.passing():
            given, batch = batch, batch.to(self.device)
            self.language_model.check_codes(batch.input_ids, codes)
            places = self.language_model.code_places() if codes else None
            if batch.labels is not None and not bool((batch.labels[:, 1:] != IGNORE_INDEX).any()):
                raise ValueError("no token of the batch has a label: encode its rows with a target")
            context = self.media_context(batch, media)
            batch = context.placed(batch)
            self.language_model.check_length(batch.input_ids.shape[1])
            predicting = None  # [B, T]: positions whose next token has a label
            if batch.labels is not None:
                predicting = F.pad(batch.labels[:, 1:] != IGNORE_INDEX, (0, 1))
            labels = None if batch.labels is None or predicting is None else batch.labels[:, 1:][predicting[:, :-1]]
            host, wide = self.language_model, self.language_model.is_wide
            with host.request(context, places, predicting, wide, lora) as request:
                request.rows_at_once = max(1, AT_ONCE // host.vocabulary.offset)
                if labels is not None and not logits and host.ends_in_head and len(labels) > request.rows_at_once:
                    request.labels = labels
                found = host(
                    batch.input_ids,
                    attention_mask=self._attention_mask(batch, wide),
                    position_ids=positions(batch.attention_mask),
                    use_cache=False,
                ).logits
            if labels is None:
                return Output(found)
            if request.loss is None:
                loss = F.cross_entropy(found.float(), labels)
                return Output(found if logits else found[:0], loss, len(labels))
            if found is request.logits:
                return Output(found[:0], request.loss, len(labels))
            host.ends_in_head = False  # what follows the head is part of the loss
        return self(given, media, codes, lora, logits)

    def _attention_mask(self, batch: Batch, wide: bool) -> Tensor | None:
        """What the language model takes for the `attention_mask` of a batch; None where nothing is to be masked."""
        mask = batch.attention_mask
        if batch.shared:
            return separating_mask(mask, torch.float32 if wide else self.language_model.dtype)
        return None if bool(mask.all()) else mask

    @property
    def transcribes(self) -> bool:
        """Whether the audio encoder is a whole Whisper, with its decoder."""
        return "audio" in self.encoders and self.encoders["audio"].transcribes

    @functools.cached_property
    def transcriber(self) -> "Transcriber":
        """The whole Whisper of the audio encoder, with its decoder; ValueError when the audio encoder is no Whisper."""
        if not self.transcribes:
            raise ValueError(
                "the model has no Whisper to transcribe with: load its audio encoder, or assemble it with one"
            )
        from encoders.transcription.transcriber import Transcriber  # whisper takes a second to import

        model: Any = self.encoders["audio"].model
        # Threads that ask at once get the same, of which what is packed is a part.
        return vars(self).setdefault("transcriber", Transcriber(model, self.language_model.accelerated))
