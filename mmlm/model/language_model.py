"""The host: any Hugging Face causal language model, joined by hooks and never changed.

While a request is active, five kinds of hooks run: the input embedding lets ids past the vocabulary through and puts
the added rows in their places; the output head appends the added logits (before any scale or soft-cap of the family's
own); and a listener may rewrite the hidden states that enter a block. A request that writes codes has their rows and
logits as well, and low-rank adapters beside the linear layers. Outside a request the language model is exactly the one
that was given.
"""

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.base import fingerprint
from mmlm.model.acceleration import Acceleration
from mmlm.model.added_rows import AddedRows, CodeRows, _mean_rows, _replace_rows, _scattered
from mmlm.model.blocks import find_blocks
from mmlm.model.code_places import CodePlaces
from mmlm.model.config import LoraConfig
from mmlm.model.lora import LoraAdapters
from mmlm.prompting.code_layout import CodeLayout
from mmlm.prompting.vocabulary import ADDED_TOKENS, MediaVocabulary


class Listener(Protocol):
    """What a request does to the language model's forward pass."""

    def on_ids(self, ids: Tensor) -> None:
        """Called first in each forward pass, with its ids `[B, T]`."""

    def before_block(self, index: int, hidden: Tensor) -> Tensor:
        """Hidden states `[B, T, D]` that block `index` shall get."""


@dataclass
class _Request:
    host: "LanguageModel"
    listener: Listener | None
    codes: CodePlaces | None = None
    wanted: Tensor | None = None
    wide: bool = False
    lora: bool = False
    ids: Tensor | None = None


# A ContextVar, so that two threads cannot meet and an exception leaves nothing behind.
_request: ContextVar[_Request | None] = ContextVar("mmlm_request", default=None)


class LanguageModel(nn.Module):
    """A frozen causal LM with its tokenizer, its blocks found, and rows for the added tokens.

    `model` is any transformers `...ForCausalLM`; no family is named anywhere. Errors: no block list of
    `num_hidden_layers` modules, or an embedding and a head of different vocabulary sizes.

    rows: "embedding" and "head" `[V, D]` in place of the model's own rows, which become as many; a head is left out
        where it is tied, or where its first V rows stay. They are saved with what was added, since the model's name
        does not bring them back.
    layouts: the codes of pictures and sound that it is to write, each with rows of its own; lora: how it is adapted
        while it does.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        name: str | None = None,
        added_tokens: tuple[str, ...] = ADDED_TOKENS,
        rows: dict[str, Tensor] | None = None,
        layouts: tuple[CodeLayout, ...] = (),
        lora: LoraConfig = LoraConfig(),
    ):
        super().__init__()
        if rows:
            _replace_rows(model, rows)
        self.replaced: tuple[str, ...] = tuple(rows or ())
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.name = name
        self.acceleration: Acceleration | None = None  # what `MultimodalLM.pack` sets
        self.config = model.config.get_text_config()
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        if head is None:
            raise ValueError(f"{type(model).__name__} has no output head: load it as an AutoModelForCausalLM")
        vocabulary_size = head.weight.shape[0]
        if embedding.weight.shape[0] != vocabulary_size:
            raise ValueError(
                f"the embedding has {embedding.weight.shape[0]} rows and the head {vocabulary_size}; ids of added "
                "tokens would not agree. Resize the language model's own vocabulary first"
            )
        self.vocabulary = MediaVocabulary(vocabulary_size, added_tokens, layouts)
        self.added = AddedRows(*_mean_rows(embedding, head, len(self.vocabulary)))
        self.hidden_size: int = self.config.hidden_size
        self._accepted = set(inspect.signature(model.forward).parameters)

        embedding.register_forward_pre_hook(self._hide_added_ids)
        embedding.register_forward_hook(self._embed_added_ids)
        head.register_forward_pre_hook(self._leave_out_unwanted)
        head.register_forward_hook(self._append_added_logits)
        for index, block in enumerate(self.blocks):
            block.register_forward_pre_hook(_BlockHook(self, index), with_kwargs=True)
        self.lora_config = lora
        self.codes: CodeRows | None = None
        self.lora: LoraAdapters | None = None
        if layouts:
            drawn = self.vocabulary.spans.get("image")
            rows = _scattered(_mean_rows(embedding, head, self.vocabulary.code_rows), embedding, head)
            self.codes = CodeRows(*rows, 1 + drawn.layout.codes if drawn else 0)
            if lora.rank:
                self.lora = LoraAdapters(self.blocks, lora.rank, lora.alpha, self._adapts)

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks: the outermost ModuleList of `config.num_hidden_layers` modules."""
        return find_blocks(self.model, self.config.num_hidden_layers)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.get_input_embeddings().weight.dtype

    @property
    def is_wide(self) -> bool:
        """Whether a request that begins now computes in float32 between weights of 16 bits: see `MultimodalLM.pack`."""
        return self.acceleration is not None and self.acceleration.is_wide(self.dtype, self.device)

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    @property
    def max_length(self) -> int | None:
        """Positions the language model has, where its config says so."""
        names = ("max_position_embeddings", "max_seq_len")
        return next((getattr(self.config, name) for name in names if hasattr(self.config, name)), None)

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end a generation: `<|endofchunk|>` and the language model's own end tokens."""
        own = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        own = own if isinstance(own, (list, tuple)) else [own, self.tokenizer.eos_token_id]
        return [self.vocabulary.end_of_chunk_id, *sorted({token for token in own if token is not None})]

    def fingerprint(self) -> str:
        """Short hex that changes with any weight of the frozen language model."""
        return fingerprint(self.model)

    def replaced_rows(self) -> dict[str, Tensor]:
        """The `rows` that were given, as they are now."""
        weights = {"embedding": self.model.get_input_embeddings(), "head": self.model.get_output_embeddings()}
        return {part: weights[part].weight for part in self.replaced}

    def train(self, mode: bool = True) -> "LanguageModel":
        """Sets the added rows' mode; the frozen language model stays in eval mode for good."""
        super().train(mode)
        self.model.eval()
        return self

    def accelerated(self) -> AbstractContextManager[None]:
        """While open, in this thread, whatever `MultimodalLM.pack` made faster is used."""
        return nullcontext() if self.acceleration is None else self.acceleration.active()

    @contextmanager
    def request(
        self,
        listener: Listener | None = None,
        codes: CodePlaces | None = None,
        wanted: Tensor | None = None,
        wide: bool = False,
        lora: bool | None = None,
    ) -> Iterator[None]:
        """While open, in this thread: added ids go in, added logits come out, and `listener` hears every pass.

        codes: what `code_places` gave, for the codes' ids and logits as well, after all others, and LoRA.
        wanted: bool `[B, T]`, the positions that reach the head, for logits `[N, V + added]` of them alone. In training
            few do, and the logits of all the others would be most of the memory.
        wide: hidden states are float32, which a packed model may bear (`is_wide`).
        lora: whether the low-rank adapters act; None for requests with codes alone.
        """
        lora = codes is not None if lora is None else lora
        token = _request.set(_Request(self, listener, codes, wanted, wide, lora))
        try:
            with self.accelerated():
                yield
        finally:
            _request.reset(token)

    def code_places(self) -> CodePlaces:
        """For one row of passes with codes, whole or cached; ValueError where the model has no codes."""
        if self.codes is None:
            raise ValueError("the language model has no rows for codes: assemble it with a codec")
        return CodePlaces(self.vocabulary.spans.get("image"))

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
        """The language model's own forward; arguments that its family does not know are left out."""
        return self.model(input_ids=input_ids, **{k: v for k, v in kwargs.items() if self.accepts(k)})

    def check_length(self, length: int) -> None:
        """`ValueError` when `length` positions are more than the language model has."""
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"prompt and max_new_tokens make {length} tokens; the language model has {self.max_length} positions"
            )

    def check_codes(self, ids: Tensor, codes: bool) -> None:
        """`ValueError` when ids `[B, T]` hold codes in a request that does not write any."""
        if not codes and self.codes is not None and int(ids.max()) >= self.vocabulary.code_offset:
            raise ValueError("the prompt holds codes, which mode \"text\" does not read: use generation_mode=\"any\"")

    def accepts(self, argument: str) -> bool:
        """Whether the family's forward knows an argument."""
        return argument in self._accepted

    def _active(self) -> _Request | None:
        request = _request.get()
        return request if request is not None and request.host is self else None

    def _adapts(self) -> bool:
        request = self._active()
        return request is not None and request.lora

    def _hide_added_ids(self, module: nn.Module, args: tuple) -> tuple | None:
        request = self._active()
        if request is None:
            return None
        ids = args[0]
        request.ids = ids
        if request.listener is not None:
            request.listener.on_ids(ids)
        return (ids.masked_fill(ids >= self.vocabulary.offset, 0), *args[1:])

    def _embed_added_ids(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        request = self._active()
        if request is None:
            return output
        added = request.ids - self.vocabulary.offset
        count = len(self.vocabulary)
        own = added.clamp(min=0) if request.codes is None else added.clamp(0, count - 1)
        rows = F.embedding(own, self.added.embedding).to(output.dtype)
        output = torch.where((added >= 0).unsqueeze(-1), rows, output)
        if request.codes is not None:
            rows = F.embedding((added - count).clamp(min=0), self.codes.embedding).to(output.dtype)
            if (places := request.codes.of(request.ids)) is not None:
                moved = F.embedding(places.clamp(min=0), self.codes.places).to(output.dtype)
                rows = rows + moved * (places >= 0).unsqueeze(-1)
            output = torch.where((added >= count).unsqueeze(-1), rows, output)
        return output.float() if request.wide else output

    def _leave_out_unwanted(self, module: nn.Module, args: tuple) -> tuple | None:
        request = self._active()
        return None if request is None or request.wanted is None else (args[0][request.wanted], *args[1:])

    def _append_added_logits(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        request = self._active()
        if request is None:
            return output
        heads = [self.added.head] if request.codes is None else [self.added.head, self.codes.head]
        logits = [F.linear(args[0], head.to(args[0].dtype)).to(output.dtype) for head in heads]
        return torch.cat([output, *logits], dim=-1)


class _BlockHook:
    """Hands the hidden states of one block to the active request; they come as first argument or by name."""

    def __init__(self, host: LanguageModel, index: int):
        self.host, self.index = host, index

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        request = self.host._active()
        if request is None or request.listener is None:
            return None
        if args:
            return (request.listener.before_block(self.index, args[0]), *args[1:]), kwargs
        hidden = request.listener.before_block(self.index, kwargs["hidden_states"])
        return args, {**kwargs, "hidden_states": hidden}
