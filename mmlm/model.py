"""MultimodalLM: frozen encoders and a frozen language model, joined by a resampler and gated cross-attention.

With codecs it writes pictures and sound as well, as codes between the words.
"""

import dataclasses
import functools
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from decoders.base import MediaCodec
from encoders.base import Features, FrozenEncoder
from mmlm import tasks
from mmlm.codes import CodeLayout
from mmlm.config import CodecPart, FrozenPart, FusionConfig, ImageEncoderPart, ModelConfig, ResamplerConfig, digest
from mmlm.fusion import Fusion, MediaContext
from mmlm.generation import captured_steps_agree, wide_steps_agree
from mmlm.language_model import LanguageModel
from mmlm.packing import pack, unpack, use_packed
from mmlm.products import HALVES, Weights, available, has_fbgemm
from mmlm.prompt import IGNORE_INDEX, Batch, Image, Part, Processor, PromptTemplate, Sound, as_part
from mmlm.resampler import PerceiverResampler
from mmlm.vocabulary import AUDIO

if TYPE_CHECKING:
    from encoders.transcriber import Transcriber

ENCODER_BATCH = 32
REPLACED = "language_model.replaced."  # before the names of saved rows that stand in place of the language model's own


@dataclass
class Output:
    """`logits [B, T, V + added]`; with labels, `[num_tokens, V + added]` of what foretells the labelled ones, row by
    row, and `loss` their mean in nats."""

    logits: Tensor
    loss: Tensor | None = None
    num_tokens: int = 0


class MultimodalLM(nn.Module):
    """Any frozen CLIP, any frozen Whisper and any frozen causal language model, with what joins them.

    Only the resamplers, the gated blocks, the rows of the added tokens and LoRA train and are saved:
    `added_parameters()`. At least one encoder; the latents of both are as wide as the image encoder's tokens, or the
    audio encoder's if it is alone.

    codecs: by "image" and "audio", what turns the codes that the language model writes into media; it must have been
    built with `layouts_of` them. decoders: diffusion decoders of these codecs, where there are any.
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
    ):
        super().__init__()
        given = {"image": image_encoder, "audio": audio_encoder}
        self.encoders = nn.ModuleDict({name: encoder for name, encoder in given.items() if encoder is not None})
        if not self.encoders:
            raise ValueError("a model needs an image encoder, an audio encoder, or both")
        if audio_encoder is not None and AUDIO not in language_model.vocabulary.tokens:
            raise ValueError(
                "the language model has no row for <audio>: build it with added_tokens=ADDED_TOKENS_WITH_AUDIO"
            )
        self.codecs, self.decoders = nn.ModuleDict(codecs or {}), nn.ModuleDict(decoders or {})
        _check_writing(self.codecs, self.decoders, language_model)
        self.resampler_config = resampler or ResamplerConfig()
        self.audio_resampler_config = audio_resampler or ResamplerConfig(timed=True)
        self.fusion_config = fusion or FusionConfig()
        self.template = template or PromptTemplate()
        self.language_model = language_model
        media_dim = next(iter(self.encoders.values())).dim
        sizes = {"image": self.resampler_config, "audio": self.audio_resampler_config}
        self.resamplers = nn.ModuleDict(
            {
                name: PerceiverResampler(media_dim, encoder.dim, **dataclasses.asdict(sizes[name]))
                for name, encoder in self.encoders.items()
            }
        )
        self.fusion = Fusion(language_model, media_dim, **dataclasses.asdict(self.fusion_config))
        self.codecs.requires_grad_(False)
        self.decoders.requires_grad_(False)
        self.processor = Processor(language_model.tokenizer, language_model.vocabulary, language_model.max_length)
        self.train(False)

    @property
    def device(self) -> torch.device:
        return self.language_model.device

    def train(self, mode: bool = True) -> "MultimodalLM":
        """Sets the mode of what was added; frozen parts stay in eval mode, codecs too, which would go on learning."""
        super().train(mode)
        self.codecs.eval()
        self.decoders.eval()
        return self

    def added_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and tensors of all that was added to the frozen parts: exactly what trains and what is saved."""
        frozen = ("encoders.", "codecs.", "decoders.", "language_model.model.")
        return ((name, tensor) for name, tensor in self.named_parameters() if not name.startswith(frozen))

    def pack(self, weights: Weights = "exact") -> "MultimodalLM":
        """Makes generation faster; `unpack` takes it back. The model stays on its device, and the same steps are taken.

        Steps of texts that are not very short are recorded and repeated (`mmlm.capture`), where the language model lets
        them, which some passes of it find out. Then its Python, hooks as well, runs in some of the steps alone, and a
        weight that changes is seen by the next text. On a CPU, layers compute on packed copies of their weights
        (`mmlm.packing`), for up to twice as much memory again as these take; and a language model of 16 bits computes
        in float32 between its weights, cache included, where some tokens of it show that it can.

        weights: with "fp16", "int8" or "int4" the language model and the gated blocks compute on weights of so many
        bits, which take a half, a quarter or a sixth of the memory, and not exactly the same; losses without gradients,
        too. Encoders and resamplers stay "exact", and so do steps of training (but for the last bits of the frozen
        encoders' features) and the language model outside of requests. ValueError for rounded weights on a GPU.
        """
        host = self.language_model
        host.captures_on, host.widens = None, False
        if self.device.type == "cpu":
            self._pack_weights(weights)
        elif weights != "exact":
            raise ValueError(f"packed weights of {weights} are for a CPU, and the model is on {self.device}")

        def context() -> MediaContext:
            return MediaContext(self.fusion, None, None, None, 1)

        host.widens = self.device.type == "cpu" and host.dtype in HALVES and has_fbgemm()  # or nothing is gained
        host.widens = host.widens and wide_steps_agree(host, context, tolerance=0.1)
        tolerance = 1e-3 if host.dtype == torch.float32 and weights in ("exact", "fp16") else 0.03
        agree = captured_steps_agree(host, context, tolerance)
        host.captures_on = self.device.type if agree else None
        return self

    def _pack_weights(self, weights: Weights) -> None:
        if not available():
            raise ValueError("this build of torch has no oneDNN: leave the model unpacked")
        for part in (self.encoders, self.resamplers):
            pack(part)
        for part in (self.fusion, self.language_model):
            pack(part, weights)

    def unpack(self) -> "MultimodalLM":
        """Takes back `pack`."""
        unpack(self)
        self.language_model.captures_on, self.language_model.widens = None, False
        return self

    # Media

    def encode_media(self, items: Sequence[Any]) -> list[Features]:
        """Each item through the frozen encoder of its kind, in batches: one Features with tokens `[1, S, D]` an item.

        Items are parts, or what `mmlm.prompt.as_part` makes parts of; Features pass through. An item that is given
        several times (a demonstration, for each row of a batch) is encoded once.
        """
        parts = [item if isinstance(item, Features) else as_part(item) for item in items]
        sources = [part if isinstance(part, Features) else part.source for part in parts]
        found: list[Features | None] = [source if isinstance(source, Features) else None for source in sources]
        first = {id(source): index for index, source in reversed(list(enumerate(sources)))}
        todo = [index for index, source in enumerate(sources) if found[index] is None and first[id(source)] == index]
        for modality in ("image", "audio"):
            own = [index for index in todo if modality_of(parts[index]) == modality]
            if own and modality not in self.encoders:
                raise ValueError(f"the model has no {modality} encoder: assemble it with one")
            for start in range(0, len(own), ENCODER_BATCH):
                chunk = own[start : start + ENCODER_BATCH]
                encoded = self.encoders[modality].features([sources[index] for index in chunk])
                for index, features in zip(chunk, encoded, strict=True):
                    found[index] = features
        return [found[first[id(source)]] for source in sources]

    def media_context(self, batch: Batch, media: Sequence[Sequence[Any]]) -> MediaContext:
        """What the batch's text may look at and listen to: `media[b]` holds the items of row b, in order.

        `ValueError` when a row's items are not as many, and of the kinds, that its `<image>` and `<audio>` tokens say;
        it is raised before anything is encoded.
        """
        rows = batch.input_ids.shape[0]
        if len(media) != rows:
            raise ValueError(f"the batch has {rows} rows, but media are given for {len(media)}")
        kinds = self.language_model.vocabulary.media_ids
        modalities: list[str] = []
        ids = batch.input_ids.cpu()
        marked = torch.isin(ids, self.fusion.media_ids)
        for row, items in enumerate(media):
            places = [kinds[token] for token in ids[row, marked[row]].tolist()]
            given = [  # ready-made features are of the kind that their place says
                (places[slot] if slot < len(places) else "image")
                if isinstance(item, Features)
                else modality_of(as_part(item))
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
        flat = [item for items in media for item in items]
        row_of = [row for row, items in enumerate(media) for _ in items]
        slot_of = [slot for items in media for slot in range(len(items))]
        index = torch.tensor([row_of, slot_of], dtype=torch.long, device=self.device).view(2, -1)
        with use_packed():
            latents, mask = self._resample(self.encode_media(flat), modalities) if flat else (None, None)
            wide = torch.float32 if self.language_model.is_wide else None
            return MediaContext(self.fusion, latents, index[0], index[1], rows, mask, wide)

    def _resample(self, features: list[Features], modalities: list[str]) -> tuple[Tensor, Tensor | None]:
        """Features of N items → latents `[N, L, V]`, L of the longest, and which are real: `[N, L]`, None for all."""
        placed: list[tuple[list[int], Tensor, Tensor | None]] = []
        for modality, resampler in self.resamplers.items():
            own = [index for index, found in enumerate(modalities) if found == modality]
            if not own:
                continue
            tokens, mask, times = _stacked([features[index] for index in own], self.device)
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

    def forward(self, batch: Batch, media: Sequence[Sequence[Any]], codes: bool = False) -> Output:
        """Logits of a whole batch, and its loss when it carries labels; `media` as in `media_context`.

        codes: the batch holds codes, whose logits come last.
        """
        batch = batch.to(self.device)
        padded = not bool(batch.attention_mask.all())
        self.language_model.check_codes(batch.input_ids, codes)
        places = self.language_model.code_places() if codes else None
        wanted = None
        if batch.labels is not None:
            wanted = F.pad(batch.labels[:, 1:] != IGNORE_INDEX, (0, 1))
            if not bool(wanted.any()):
                raise ValueError("no token of the batch carries a label: encode its rows with a target")
        wide = self.language_model.is_wide
        with self.language_model.request(self.media_context(batch, media), places, wanted, wide):
            logits = self.language_model(
                batch.input_ids,
                attention_mask=batch.attention_mask if padded else None,
                position_ids=(batch.attention_mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
            ).logits
        if wanted is None:
            return Output(logits)
        labels = batch.labels[:, 1:][wanted[:, :-1]]
        return Output(logits, F.cross_entropy(logits.float(), labels), len(labels))

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

    def transcribe(self, recordings: Any, **options: Any) -> Any:
        """What is said in a recording, or in each of a list, by Whisper's own decoding; see `mmlm.tasks.transcribe`."""
        return tasks.transcribe(self, recordings, **options)

    def ask(self, recordings: Any, question: Any = None, image: Any = None, **options: Any) -> Any:
        """The answer to a spoken question, or to one about a recording; see `mmlm.tasks.ask`."""
        return tasks.ask(self, recordings, question, image, **options)

    def draw(self, texts: Any, num_images: int = 1, **options: Any) -> Any:
        """A picture of what a text says, or of each of a list; see `mmlm.drawing.draw`."""
        from mmlm.drawing import draw

        return draw(self, texts, num_images, **options)

    def speak(self, texts: Any, **options: Any) -> Any:
        """A text as speech, or each of a list; see `mmlm.drawing.speak`."""
        from mmlm.drawing import speak

        return speak(self, texts, **options)

    @functools.cached_property
    def transcriber(self) -> "Transcriber":
        """Whisper whole, with its own decoder; ValueError where the model has no Whisper."""
        whisper = getattr(self.encoders["audio"], "model", None) if "audio" in self.encoders else None
        if whisper is None or not hasattr(whisper, "decode"):
            raise ValueError("the model has no Whisper to write down what is said: assemble it with an audio_encoder")
        from encoders.transcriber import Transcriber

        return Transcriber(whisper)

    # Saving

    def config(self) -> ModelConfig:
        """What rebuilds this model, with fingerprints of its frozen parts."""
        eyes = self.encoders["image"] if "image" in self.encoders else None
        ears = self.encoders["audio"] if "audio" in self.encoders else None
        return ModelConfig(
            FrozenPart(self.language_model.name, self.language_model.fingerprint()),
            eyes and ImageEncoderPart(eyes.name, eyes.fingerprint(), getattr(eyes, "final_norm", True)),
            self.resampler_config,
            self.fusion_config,
            self.template,
            ears and FrozenPart(ears.name, ears.fingerprint()),
            self.audio_resampler_config,
            *(self._written_by(kind, modality) for modality in ("image", "audio") for kind in ("codecs", "decoders")),
            self.language_model.lora_config,
        )

    def _written_by(self, kind: str, modality: str) -> FrozenPart | None:
        parts = getattr(self, kind)
        if modality not in parts:
            return None
        from decoders.checkpoint import codec_fingerprint

        part = parts[modality]
        name, fingerprint = getattr(part, "name", None), codec_fingerprint(part)
        if kind == "decoders":
            return FrozenPart(name, fingerprint)
        own = part.num_codebooks if modality == "audio" else None
        return CodecPart(name, fingerprint, getattr(part, "subfolder", ""), part.size, own)

    def save(self, folder: str | Path) -> Path:
        """Writes `model.safetensors` and `config.json`: only what was added, and the names of the frozen parts.

        Where a checkpoint replaced the language model's embedding, its rows are what was added, too.

        Each file is written whole beside its place and then moved there; the weights carry the config's digest, so that
        two saves that met half-way are not taken for one model.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"cannot save a model to {folder}: it is a file")
        folder.mkdir(parents=True, exist_ok=True)
        tensors = dict(self.added_parameters())
        tensors |= {f"{REPLACED}{part}": rows for part, rows in self.language_model.replaced_rows().items()}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
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


def layouts_of(codecs: Mapping[str, MediaCodec], max_seconds: float = 10.0) -> tuple[CodeLayout, ...]:
    """What the codecs' codes look like to a language model; sound is written for `max_seconds` at most."""
    found = []
    for modality in ("image", "audio"):
        if (codec := codecs.get(modality)) is not None:
            steps = CodeLayout.max_steps if codec.frame_rate is None else math.ceil(codec.frame_rate * max_seconds)
            found.append(CodeLayout(modality, codec.codebook_size, codec.num_codebooks, codec.grid, steps))
    return tuple(found)


def _check_writing(codecs: nn.ModuleDict, decoders: nn.ModuleDict, language_model: LanguageModel) -> None:
    for modality, codec in codecs.items():
        if codec.modality != modality:
            raise ValueError(f"the {modality} codec is of the kind {codec.modality!r}")
        if modality == "image" and codec.grid is None:
            raise ValueError("the image codec has no size of its own: give it one, so that its grid is known")
    for modality, decoder in decoders.items():
        if modality not in codecs or decoder.codec is not codecs[modality]:
            raise ValueError(f"the {modality} decoder is not of the model's {modality} codec")
    spans = language_model.vocabulary.spans
    for layout in layouts_of(dict(codecs.items())):
        own = spans.get(layout.modality)
        if own is None or dataclasses.replace(own.layout, max_steps=layout.max_steps) != layout:
            raise ValueError(
                f"the language model has no rows for the codes of the {layout.modality} codec: build it with "
                "layouts=layouts_of(codecs)"
            )


def modality_of(part: Part) -> str:
    """"image" or "audio"; TypeError for a part that is neither."""
    if isinstance(part, Image):
        return "image"
    if isinstance(part, Sound):
        return "audio"
    raise TypeError(f"media are pictures and sounds, not {type(part).__name__}")


def _stacked(items: list[Features], device: torch.device) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """N Features of one item each → tokens `[N, S, D]`, mask and times `[N, S]`; shorter ones are padded and masked."""
    longest = max(item.tokens.shape[1] for item in items)

    def padded(tensor: Tensor) -> Tensor:
        return F.pad(tensor.to(device), (0,) * 2 * (tensor.ndim - 2) + (0, longest - tensor.shape[1]))

    tokens = torch.cat([padded(item.tokens) for item in items])
    whole = all(item.mask is None and item.tokens.shape[1] == longest for item in items)
    masks = [torch.ones(item.tokens.shape[:2], dtype=torch.bool) if item.mask is None else item.mask for item in items]
    times = [torch.zeros(item.tokens.shape[:2]) if item.times is None else item.times for item in items]
    timeless = all(item.times is None for item in items)
    return (
        tokens,
        None if whole else torch.cat([padded(mask) for mask in masks]),
        None if timeless else torch.cat([padded(own.float()) for own in times]),
    )
