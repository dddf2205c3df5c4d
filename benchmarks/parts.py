"""What the benchmarks share: models of random weights, runs in turn, the machine's bandwidth."""

import contextlib
import copy
import ctypes
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from encoders.clip import ClipImageEncoder
from mmlm.acceleration.copies import use_packed
from mmlm.acceleration.packing import pack_layers
from mmlm.assembly.assemble import assemble
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.generation.beams import beam_search
from mmlm.generation.decoder import Decoder
from mmlm.generation.loop import decode
from mmlm.generation.options import GenerationOptions
from mmlm.model.config import ResamplerConfig
from mmlm.model.language_model import LanguageModel
from mmlm.prompting.parts import Image
from mmlm.prompting.processor import Batch

STREAMED = 512 * 2**20  # bytes; more than any cache holds
LARGE = 2048  # rows and columns of a product that keeps all units busy
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["cat", "dog", "bird"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
"""A schema, of which texts are written."""


@dataclass(frozen=True)
class Size:
    """A language model of OPT's make, and an open_clip vision transformer by name or by its config."""

    width: int
    layers: int
    vocabulary: int
    vision: str | dict[str, int] = "ViT-B-32"


SIZES = {
    "small": Size(768, 12, 50272),  # OPT-125m
    "tiny": Size(256, 4, 8192),
    "quick": Size(64, 2, 512, {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}),
}


@torch.no_grad()
def build(size: str, dtype: torch.dtype = torch.float32, language_model: nn.Module | None = None) -> MultimodalLM:
    """A gated block before every block, with open gates. The same size has the same weights each time."""
    own = SIZES[size]
    torch.manual_seed(0)
    made = causal_lm(own) if language_model is None else language_model
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({f"t{i}": i for i in range(own.vocabulary)}, "t0"))
    )
    torch.manual_seed(1)
    model = assemble(LanguageModel(made, tokenizer), _eyes(own.vision), resampler=ResamplerConfig())  # Flamingo's
    for layer in model.fusion.layers:
        layer.attn_gate.uniform_(0.5, 1.0)
        layer.ff_gate.uniform_(0.5, 1.0)
    return model.to(dtype).eval()


def causal_lm(size: Size) -> nn.Module:
    """A random OPT in float32."""
    config = transformers.OPTConfig(
        vocab_size=size.vocabulary, hidden_size=size.width, num_hidden_layers=size.layers, ffn_dim=4 * size.width,
        num_attention_heads=max(1, size.width // 64), word_embed_proj_dim=size.width, max_position_embeddings=2048,
    )  # fmt: skip
    return transformers.OPTForCausalLM(config)


def _eyes(vision: str | dict[str, int]) -> ClipImageEncoder:
    if isinstance(vision, str):
        clip = open_clip.create_model(vision)
    else:
        text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
        clip = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
    encoder = ClipImageEncoder(clip, image_transform_v2(PreprocessCfg(size=clip.visual.image_size), is_train=False))
    encoder.preprocess = lambda pixels: pixels.to(next(clip.parameters()).dtype)  # the benchmarks begin at pixels
    return encoder


def prompts(model: MultimodalLM, batch: int, pictures: int, length: int = 32) -> tuple[Batch, list[list[Image]]]:
    """Random rows in which text follows each picture, at least a token; and the pictures' pixels."""
    draw = torch.Generator().manual_seed(10 * batch + pictures)
    length = max(length, 2 * pictures)
    ids = torch.randint(4, len(model.language_model.tokenizer), (batch, length), generator=draw)
    if pictures:
        ids[:, torch.arange(pictures) * (length // pictures)] = model.language_model.vocabulary.image_id
    pixels = torch.randn(batch, pictures, 3, *model.encoders["image"].image_size, generator=draw)
    return Batch(ids, torch.ones_like(ids)), [[Image(one) for one in row] for row in pixels]


@torch.no_grad()
def generate(model: MultimodalLM, batch: Batch, media: Sequence[Sequence[Any]], new: int, beams: int = 1) -> Tensor:
    """New ids [B, new]; nothing ends a text."""
    batch = batch.to(model.device)
    decoder = Decoder(model.language_model, model.media_context(batch, media), batch, new)
    options = GenerationOptions(max_new_tokens=new, num_beams=beams)
    if beams > 1:
        return torch.tensor([beams[0].ids for beams in beam_search(decoder, options, [-1])])
    return torch.stack([step.tokens for step in decode(decoder, options, [-1])], dim=1)


def seconds_in_turn(
    runs: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each run in each round; the runs take turns, after one round that warms them."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for done in range(rounds + 1):
        for name, run in runs.items():
            progress(f"round {done} of {rounds}: {name}" if done else f"warming up: {name}")
            start = clock()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # a GPU is asked, and answers later
            found[name].append(clock() - start)
    progress("")
    return {name: own[1:] for name, own in found.items()}


def progress(text: str) -> None:
    """What is being done, on standard error: in one line of a terminal; else a line for each, but none for ""."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def peak_memory() -> str:
    """The most memory that this process has held."""
    return f"most memory held: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB"


def forget_peak(process: int | str = "self") -> None:
    """Begins anew to look for the most memory that a process holds; `peak` tells it. Free memory is given back first,
    of this process. Linux has this."""
    with contextlib.suppress(OSError, AttributeError):
        if process == "self":
            ctypes.CDLL(None).malloc_trim(0)
        Path(f"/proc/{process}/clear_refs").write_text("5")


def peak(process: int | str = "self") -> float:
    """GB that a process has held at most since `forget_peak`; NaN where the system does not tell."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{process}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 2**20
    return math.nan


def sharing(model: MultimodalLM) -> MultimodalLM:
    """A copy that holds the same weights in the same memory, to be packed in another way."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


@contextlib.contextmanager
def unaccelerated(model: MultimodalLM) -> Iterator[None]:
    """While open, a packed model computes as if it were not."""
    own, model.language_model.acceleration = model.language_model.acceleration, None
    try:
        yield
    finally:
        model.language_model.acceleration = own


def paired_ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """Median over the rounds: absolute times drift from minute to minute, ratios within a round do not."""
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def bytes_read_a_token(model: MultimodalLM, each: float | None = None) -> float:
    """Bytes of all weights that a step of decoding reads: blocks, head and gated blocks, but no media keys.

    each: bytes of one weight, where they are not those of its dtype.
    """
    host = model.language_model
    parts = [*host.blocks.parameters(), *host.model.get_output_embeddings().parameters()]
    parts += [tensor for name, tensor in model.fusion.named_parameters() if "to_kv" not in name]
    return sum(tensor.numel() * (each or tensor.element_size()) for tensor in parts)


def bandwidth(device: str = "cpu") -> float:
    """Bytes a second at which memory is read, by all threads together: the best of five sums over more than a cache
    holds."""
    data = torch.ones(STREAMED // 4, device=device)
    return STREAMED / min(seconds_in_turn({"read": data.sum}, 5)["read"])


def arithmetic(dtype: torch.dtype, device: str = "cpu") -> float:
    """Floating point operations a second in a large product, packed: the best of five."""
    layer = nn.Linear(LARGE, LARGE, bias=False, dtype=dtype, device=device)
    pack_layers(layer)
    x = torch.randn(LARGE, LARGE, device=device).to(dtype)
    with torch.no_grad(), use_packed():
        return 2 * LARGE**3 / min(seconds_in_turn({"multiply": lambda: layer(x)}, 5)["multiply"])


def operations(model: nn.Module, run: Callable[[], object]) -> int:
    """Floating point operations in the products of a run of a plain model, which is not trained any more."""
    model.requires_grad_(False)  # the counter's hooks want gradients where they are asked for
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a kernel that the counter does not know
    try:
        with FlopCounterMode(display=False) as counter:
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    return counter.get_total_flops()


def machine(device: str, threads: int) -> str:
    """What computes, for a table's head."""
    return torch.cuda.get_device_name() if device == "cuda" else f"{threads} threads"
