"""Tiny assembled models for the tests: a real open_clip tower, any family, gates opened, added rows drawn."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import open_clip
import torch
import whisper
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image as PILImage
from torch import Tensor

from encoders.clip import ClipImageEncoder
from encoders.media.sound import SAMPLE_RATE, Audio
from encoders.whisper import WhisperAudioEncoder
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.generation.beams import beam_search
from mmlm.generation.decoder import Decoder
from mmlm.generation.loop import decode
from mmlm.generation.options import GenerationOptions
from mmlm.model.config import FusionConfig, ResamplerConfig
from mmlm.model.fusion.prefix import Prefix
from mmlm.model.language_model import LanguageModel
from mmlm.prompting.parts import Sound
from mmlm.prompting.processor import Batch
from mmlm.prompting.vocabulary import ADDED_TOKENS, ADDED_TOKENS_WITH_AUDIO
from support import families

RESAMPLER = ResamplerConfig(depth=1, num_latents=4, heads=2, dim_head=8, ff_mult=2)
VISION = dict(image_size=32, layers=2, width=24, head_width=8, patch_size=8)
TEXT = dict(context_length=8, vocab_size=64, width=16, heads=2, layers=1)


def image_encoder(seed: int = 0, final_norm: bool = True) -> ClipImageEncoder:
    """A random open_clip model: pictures of 32 × 32, 16 patch tokens of width 24."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(embed_dim=16, vision_cfg=VISION, text_cfg=TEXT)
        for parameter in model.visual.parameters():
            if parameter.ndim > 1:  # large enough that two pictures differ clearly in what the text sees
                torch.nn.init.normal_(parameter, std=0.3)
    return ClipImageEncoder(model, image_transform_v2(PreprocessCfg(size=32), is_train=False), final_norm=final_norm)


EARS = {
    "latents": ResamplerConfig(depth=1, num_latents=3, heads=2, dim_head=8, ff_mult=2, timed=True),
    "tokens": ResamplerConfig(depth=0, timed=True, stack=2),
}
WINDOW = 0.4  # seconds that the tiny Whisper encodes at once


def audio_encoder(seed: int = 0) -> WhisperAudioEncoder:
    """A random Whisper with windows of 0.4 s, 20 tokens of width 16; its weights are loud, so that sounds differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        dims = whisper.ModelDimensions(
            n_mels=80, n_audio_ctx=20, n_audio_state=16, n_audio_head=2, n_audio_layer=2, n_vocab=51864,
            n_text_ctx=16, n_text_state=16, n_text_head=2, n_text_layer=1,
        )  # fmt: skip
        model = whisper.Whisper(dims)
        for parameter in model.encoder.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
        torch.nn.init.normal_(model.decoder.positional_embedding)  # upstream leaves it as memory is, NaN or not
    return WhisperAudioEncoder(model)


def sound(seconds: float, seed: int = 0) -> Sound:
    """A tone that wanders, at 16 kHz."""
    draw = np.random.default_rng(seed)
    steps = np.repeat(draw.uniform(0.02, 0.5, 1 + int(seconds * 20)), SAMPLE_RATE // 20)[: round(seconds * SAMPLE_RATE)]
    return Sound(Audio(np.sin(steps.cumsum()).astype(np.float32), SAMPLE_RATE))


WAYS = ["latest", "prefix"]
"""A way in which media join: what text sees by cross-attention, or "prefix"."""


def fusion(visibility: str = "latest", every: int = 1) -> FusionConfig:
    if visibility == "prefix":
        return FusionConfig(kind="prefix")
    return FusionConfig(every, visibility, heads=2, dim_head=8, ff_mult=2)


def build(
    family: str = "llama",
    *,
    visibility: str = "latest",
    every: int = 1,
    opened: bool = True,
    own_end: bool = False,
    seed: int = 0,
    tokenizer: Any = None,
    ears: str | None = None,
) -> MultimodalLM:
    """A fresh model. `own_end=False` takes the language model's own end token away, so that texts grow long.

    visibility: of cross-attention, or "prefix".
    ears: "latents" or "tokens", a Whisper whose sounds are resampled or passed on as they are, two tokens in one.
    """
    language_model = families.language_model(family, seed)
    tokenizer = tokenizer or families.tokenizer()
    if not own_end:
        language_model.generation_config.eos_token_id = None
        tokenizer.eos_token = None
    host = LanguageModel(language_model, tokenizer, added_tokens=ADDED_TOKENS_WITH_AUDIO if ears else ADDED_TOKENS)
    hearing = dict(audio_encoder=audio_encoder(seed), audio_resampler=EARS[ears]) if ears else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MultimodalLM(host, image_encoder(seed), RESAMPLER, fusion(visibility, every), **hearing)
        if opened:
            open_gates(model)
    return model


shared = functools.cache(build)
"""The same models, made once: for tests that leave them as they are."""


def likely_end(visibility: str = "latest") -> MultimodalLM:
    """A model that ends a text every few tokens, by either of its two stop tokens."""
    model = build("llama", own_end=True, visibility=visibility)
    with torch.no_grad():
        head = model.language_model.model.get_output_embeddings().weight
        head[256] *= 2.5
        model.language_model.added.head[0].normal_(std=0.4, generator=torch.Generator().manual_seed(8))
    return model


@torch.no_grad()
def open_gates(model: MultimodalLM) -> None:
    """Draws the gates and the added rows, and makes the adapters loud, so that every part of them matters."""
    if isinstance(model.fusion, Prefix):
        for layer in (model.fusion.projector[0], model.fusion.projector[2]):
            layer.weight.normal_(std=0.3)
            layer.bias.normal_(std=0.3)
    for layer in getattr(model.fusion, "layers", ()):
        layer.attn_gate.uniform_(0.7, 1.2)
        layer.ff_gate.uniform_(-0.8, -0.4)
        layer.attn.to_out.weight.normal_(std=0.5)
    model.language_model.added.embedding.normal_(std=0.5)
    model.language_model.added.head.normal_(std=0.1)
    if "audio" in model.resamplers:
        model.resamplers["audio"].time.weight.normal_(std=0.3)


def checkpointing(model: MultimodalLM, switch: str = "enable") -> None:
    """transformers' own switch of checkpointing, "enable" or "disable", by the name that this version has for it."""
    own = model.language_model.model
    kind = "activation" if hasattr(own, "activation_checkpointing_enable") else "gradient"
    getattr(own, f"{kind}_checkpointing_{switch}")()


def picture(seed: int) -> PILImage.Image:
    """A picture of random blocks, 48 × 40 pixels."""
    values = torch.randint(0, 256, (5, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return PILImage.fromarray(values.numpy()).resize((48, 40), PILImage.Resampling.NEAREST)


def prompts() -> list[list[Any]]:
    """Three rows of unequal length: two pictures, text alone, one picture after text."""
    return [
        [picture(1), "one. ", picture(2), "Output:"],
        ["only text here, and rather more of it than elsewhere"],
        ["see: ", picture(3), "x"],
    ]


def encoded(model: MultimodalLM, rows: Sequence[Sequence[Any]], side: str = "left") -> tuple[Batch, list[list[Any]]]:
    """Batch and media of prompts."""
    examples = [model.processor.encode(row) for row in rows]
    batch = model.processor.collate(examples, padding_side=side)
    batch.labels = None
    return batch, [example.media for example in examples]


def decoder(model: MultimodalLM, rows: Sequence[Sequence[Any]], max_new_tokens: int) -> Decoder:
    batch, media = encoded(model, rows)
    batch = batch.to(model.device)
    with torch.no_grad():
        context = model.media_context(batch, media)
        return Decoder(model.language_model, context, context.placed(batch), max_new_tokens)


def token_ids(model: MultimodalLM, rows: Sequence[Sequence[Any]], **options: Any) -> list[list[int]]:
    """New token ids of each row, up to and with the first stop token; with beams, the best hypothesis of each."""
    chosen = GenerationOptions(**options)
    stops = model.language_model.stop_ids
    run = decoder(model, rows, chosen.max_new_tokens)
    if chosen.num_beams > 1:
        return [beam.ids for beams in beam_search(run, chosen, stops) for beam in beams]
    ids = torch.stack([step.tokens for step in decode(run, chosen, stops, chosen.sampler(run.ids.device))], dim=1)
    return [until_stop(row, stops) for row in ids.tolist()]


def texts(model: MultimodalLM, prompt: Any, **options: Any) -> Any:
    """What `generate` writes, as text alone."""

    def text(found: Any) -> Any:
        return [text(one) for one in found] if isinstance(found, list) else found.text

    return text(model.generate(prompt, **options))


def until_stop(ids: list[int], stops: list[int]) -> list[int]:
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    return ids[: end + 1]


@torch.no_grad()
def upstream_ids(model: MultimodalLM, rows: Sequence[Sequence[Any]], **options: Any) -> list[list[int]]:
    """The same by transformers' own `generate`, on the same model within one request."""
    host = model.language_model
    batch, media = encoded(model, rows)
    context = model.media_context(batch, media)
    batch = context.placed(batch)
    placeholders = host.vocabulary.end_of_chunk_id + 1

    def forbid(module: torch.nn.Module, args: tuple, output: Any) -> Any:
        output.logits[..., placeholders:] = -torch.inf
        return output

    hook = host.model.register_forward_hook(forbid)
    try:
        with host.request(context):
            ids: Tensor = host.model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                eos_token_id=host.stop_ids,
                pad_token_id=host.stop_ids[0],
                use_cache=True,  # MPT's config says no, and the text would come again from its start at each token
                **{"do_sample": False, **options},
            )
    finally:
        hook.remove()
    return [until_stop(row, host.stop_ids) for row in ids[:, batch.input_ids.shape[1] :].tolist()]


def expected_names(way: str = "latest") -> set[str]:
    """What trains, written out: a resampler of one layer, added rows, and three gated blocks or a projector."""
    resampler = """
        latents layers.0.0.norm_media.weight layers.0.0.norm_media.bias layers.0.0.norm_latents.weight
        layers.0.0.norm_latents.bias layers.0.0.to_q.weight layers.0.0.to_kv.weight layers.0.0.to_out.weight
        layers.0.1.0.weight layers.0.1.0.bias layers.0.1.1.weight layers.0.1.3.weight norm.weight norm.bias
    """
    block = """
        attn_gate ff_gate attn.norm.weight attn.norm.bias attn.to_q.weight attn.to_kv.weight attn.to_out.weight
        ff.0.weight ff.0.bias ff.1.weight ff.3.weight
    """
    names = {"language_model.added.embedding", "language_model.added.head"}
    names |= {f"resamplers.image.{name}" for name in resampler.split()}
    if way == "prefix":
        return names | {f"fusion.projector.{layer}.{name}" for layer in (0, 2) for name in ("weight", "bias")}
    return names | {f"fusion.layers.{index}.{name}" for index in (0, 1, 2) for name in block.split()}
