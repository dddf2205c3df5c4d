"""Any Hugging Face causal language model, extended by hooks and never changed.

While a request is active, hooks on the model do the following:

- The input embedding accepts ids past the vocabulary, and gives them the added rows. Other embeddings of the same ids
  give them what they have for id 0.
- The output head appends the logits of the added tokens, before any scale or soft-cap of the family's own.
- A callback may change the embeddings, and the hidden states that enter a block: media join in one of these ways.
- In requests that write codes, their rows and logits are included.
- Low-rank adapters act beside the linear layers, in the requests that write codes or in all.

Outside a request the language model computes exactly what it computed before it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.base import fingerprint
from mmlm.model.acceleration import Acceleration
from mmlm.model.added_rows import AddedRows, CodeRows, mean_rows, replace_rows, scattered
from mmlm.model.block_hook import BlockHook
from mmlm.model.blocks import embedding_and_head, find_blocks
from mmlm.model.changes import Changes, Changing
from mmlm.model.checkpointing import checkpointed
from mmlm.model.code_places import CodePlaces
from mmlm.model.config import LoraConfig
from mmlm.model.guest import called, is_placed, keep_unpacked, offloaded, plain_names
from mmlm.model.head import from_head, to_head
from mmlm.model.lora import LoraAdapters
from mmlm.model.modules import weight_of
from mmlm.model.other_embeddings import hide_added_ids
from mmlm.model.request import ForwardCallback, Request, current_request
from mmlm.prompting.code_layout import CodeLayout
from mmlm.prompting.conversation import turn_end
from mmlm.prompting.vocabulary import ADDED_TOKENS, MediaVocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LanguageModel(Changing):
    """A frozen causal language model with its tokenizer, and with rows for the added tokens.

    model: any transformers `...ForCausalLM`, compiled by `torch.compile`, wrapped by peft or with quantised layers too.
        The code names no model family; what the model takes is found by running it.
    name: what rebuilds the model, for saving; None if it is ready-made. own_tokenizer: its tokenizer was given apart.
    added_tokens: the names of the added tokens, in the order of their ids.
    rows: "embedding" and "head" `[V, D]`, which replace the model's own rows; its vocabulary is resized to V. The head
        is left out if it is tied to the embedding, or if its first V rows stay. All are saved with the added weights.
    layouts: the codes of images and audio that the model writes; each has rows of its own.
    lora: the adapters that act while codes are written, or in all requests.
    ValueError for a model without an output head, with an embedding and a head of different vocabulary sizes, or
    without exactly one outermost list of `config.num_hidden_layers` blocks.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        name: str | None = None,
        added_tokens: tuple[str, ...] = ADDED_TOKENS,
        rows: dict[str, Tensor] | None = None,
        layouts: tuple[CodeLayout, ...] = (),
        lora: LoraConfig = LoraConfig(),
        own_tokenizer: bool = False,
    ) -> None:
        super().__init__()
        if rows:
            replace_rows(model, rows)
        self.replaced: tuple[str, ...] = tuple(rows or ())
        keep_unpacked(model)
        self.model = model.requires_grad_(False).eval()
        self.name = name
        self.tokenizer, self.own_tokenizer = tokenizer, own_tokenizer
        self.fingerprinted: str | None = None  # of weights that lie in parts on several devices
        self.halved = False  # whether a run keeps frozen weights in bfloat16 (`mmlm.training.resting`)
        self.ends_in_head = True  # until something was found to follow the head, such as a soft-cap
        self._refused: set[str] = set()  # arguments that the model was found not to take
        self.changes = Changes()
        self.acceleration: Acceleration | None = None  # set by `MultimodalLM.pack`
        self.config: Any = model.config.get_text_config()
        embedding, head = embedding_and_head(model)
        if weight_of(embedding).is_meta or weight_of(head).is_meta:
            raise ValueError("the embedding and the head lie on disk or beside: give them a device in device_map")
        vocabulary_size = weight_of(head).shape[0]
        if weight_of(embedding).shape[0] != vocabulary_size:
            raise ValueError(
                f"the embedding has {weight_of(embedding).shape[0]} rows and the head {vocabulary_size}, so an added "
                "token would have two ids: first resize the language model's vocabulary with resize_token_embeddings"
            )
        self.vocabulary = MediaVocabulary(vocabulary_size, added_tokens, layouts)
        self.added = AddedRows(*mean_rows(embedding, head, len(self.vocabulary)))
        self.hidden_size: int = self.config.hidden_size

        embedding.register_forward_pre_hook(self._hide_added_ids)
        embedding.register_forward_hook(self._embed_added_ids)
        hide_added_ids(model, embedding, self.active_request, self.vocabulary.offset)
        head.register_forward_pre_hook(self._keep_logit_positions)
        head.register_forward_hook(self._append_added_logits)
        for index, block in enumerate(self.blocks):
            block.register_forward_pre_hook(BlockHook(self.active_request, index), with_kwargs=True)
        self.lora_config = lora
        self.codes: CodeRows | None = None
        self.lora: LoraAdapters | None = None
        if layouts:
            image = self.vocabulary.spans.get("image")
            known, written = map(scattered, mean_rows(embedding, head, self.vocabulary.code_rows), (embedding, head))
            self.codes = CodeRows(known, written, 1 + image.layout.codes if image else 0)
        if lora.rank and (layouts or lora.reads):
            self.lora = LoraAdapters(self.blocks, lora, self._where_lora_acts)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As `Changing`, but a model that accelerate has placed stays where it is, and of its type."""
        if not is_placed(self.model):
            return super()._apply(fn, recurse)
        for name, module in self.named_children():
            if name != "model":
                module._apply(fn)
        return super()._apply(fn, recurse=False)

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks: the outermost ModuleList of `config.num_hidden_layers` modules."""
        return find_blocks(self.model, self.config.num_hidden_layers)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the embedding, or of what it gives where frozen weights are kept in bfloat16."""
        return torch.float32 if self.halved else weight_of(self.model.get_input_embeddings()).dtype

    @property
    def is_wide(self) -> bool:
        """Whether a request that starts now has float32 hidden states between 16-bit weights (`MultimodalLM.pack`)."""
        return self.acceleration is not None and self.acceleration.is_wide(self.dtype, self.device)

    @property
    def device(self) -> torch.device:
        """The device of the embedding."""
        return weight_of(self.model.get_input_embeddings()).device

    @property
    def max_length(self) -> int | None:
        """The number of positions of the language model; None if its config names no limit."""
        names = ("max_position_embeddings", "max_seq_len")
        return next((getattr(self.config, name) for name in names if hasattr(self.config, name)), None)

    @property
    def stop_ids(self) -> list[int]:
        """The ids that end a generation: `<|endofchunk|>` and the language model's own.

        These are all that its generation config, its tokenizer and the end of a turn in its chat template name.
        """
        listed = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        own = {*(listed if isinstance(listed, (list, tuple)) else [listed])}
        own |= {self.tokenizer.eos_token_id, turn_end(self.tokenizer)}
        return [self.vocabulary.end_of_chunk_id, *sorted(token for token in own if token is not None)]

    def fingerprint(self) -> str:
        """A short hex string of the frozen language model's weights; see `encoders.base.fingerprint`."""
        return self.fingerprinted or fingerprint(plain_names(self.model.state_dict() | offloaded(self.model)))

    def replaced_rows(self) -> dict[str, Tensor]:
        """The current values of the `rows` that replaced the model's own; empty if none did."""
        embedding, head = embedding_and_head(self.model)
        current = {"embedding": weight_of(embedding), "head": weight_of(head)}
        return {part: current[part] for part in self.replaced}

    def train(self, mode: bool = True) -> LanguageModel:
        """Sets the mode of the added modules; the frozen language model always stays in eval mode."""
        super().train(mode)
        self.model.eval()
        return self

    @contextmanager
    def accelerated(self) -> Iterator[None]:
        """A context for passes in this thread: the acceleration of `pack` acts, and nobody changes the model."""
        with (
            self.changes.passing(),
            nullcontext() if self.acceleration is None else self.acceleration.active(),
            torch.autocast(self.device.type, torch.bfloat16) if self.halved else nullcontext(),
        ):
            yield

    @contextmanager
    def request(
        self,
        callback: ForwardCallback | None = None,
        codes: CodePlaces | None = None,
        logit_positions: Tensor | None = None,
        wide: bool = False,
        lora: bool | Tensor | None = None,
    ) -> Iterator[Request]:
        """A context in which, in this thread, the model accepts added ids and gives their logits.

        callback: follows each pass, and may change the embeddings and the hidden states that enter the blocks.
        codes: from `code_places`. Then codes are accepted too, and their logits come after all others.
        logit_positions: bool `[B, T]`, the N positions that reach the head. In training they are few.
        wide: whether hidden states are float32, for models with 16-bit weights (`is_wide`).
        lora: whether the low-rank adapters act, or in which rows, bool `[B]`; None: with codes, or if they read.
        """
        lora = codes is not None or self.lora_config.reads if lora is None else lora
        request = Request(self, callback, codes, logit_positions, wide, lora)
        token = current_request.set(request)
        try:
            with self.accelerated():
                yield request
        finally:
            current_request.reset(token)

    def code_places(self) -> CodePlaces:
        """The state that one request with codes needs, over all its passes; ValueError if the model has no codes."""
        if self.codes is None:
            raise ValueError("the language model has no rows for codes: assemble it with a codec")
        return CodePlaces(self.vocabulary.spans.get("image"))

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
        """The language model's own forward on `input_ids [B, T]`, without arguments that it has refused by name."""
        request = self.active_request()
        earlier = None if request is None else request.ids

        def unheard() -> bool:  # a text that the hooks have heard must not be heard twice
            return request is None or request.ids is earlier

        with checkpointed(self.model, self.config.num_hidden_layers):
            return called(self.model, input_ids, kwargs, self._refused, unheard)

    def accepts(self, argument: str) -> bool:
        """Whether the language model's forward takes an argument of this name, as far as its calls have shown."""
        return argument not in self._refused

    def check_length(self, length: int) -> None:
        """ValueError when `length` is more positions than the language model has."""
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"a text with its media and max_new_tokens takes {length} tokens, but the language model has "
                f"{self.max_length} positions"
            )

    def check_codes(self, ids: Tensor, codes: bool) -> None:
        """ValueError when ids `[B, T]` contain codes in a request without codes."""
        if not codes and self.codes is not None and int(ids.max()) >= self.vocabulary.code_offset:
            raise ValueError('the prompt holds codes, which mode "text" does not read: use generation_mode="any"')

    def active_request(self) -> Request | None:
        """The request of this model that is open in this thread, or None."""
        request = current_request.get()
        return request if request is not None and request.language_model is self else None

    def _where_lora_acts(self) -> bool | Tensor:
        request = self.active_request()
        return request is not None and request.lora

    def _hide_added_ids(self, module: nn.Module, args: tuple) -> tuple | None:
        request = self.active_request()
        if request is None:
            return None
        ids = args[0]
        request.ids = ids
        if request.callback is not None:
            request.callback.on_ids(ids)
        return (ids.masked_fill(ids >= self.vocabulary.offset, 0), *args[1:])

    def _embed_added_ids(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        request = self.active_request()
        if request is None:
            return output
        assert request.ids is not None  # set by `_hide_added_ids`, in this pass
        output = output.float() if request.wide or self.halved else output
        added = request.ids - self.vocabulary.offset
        count = len(self.vocabulary)
        own = added.clamp(min=0) if request.codes is None else added.clamp(0, count - 1)
        rows = F.embedding(own, self.added.embedding).to(output.dtype)
        output = torch.where((added >= 0).unsqueeze(-1), rows, output)
        if request.codes is not None:
            assert self.codes is not None
            rows = F.embedding((added - count).clamp(min=0), self.codes.embedding).to(output.dtype)
            if (places := request.codes.of(request.ids)) is not None:
                assert self.codes.places is not None
                position = F.embedding(places.clamp(min=0), self.codes.places).to(output.dtype)
                rows = rows + position * (places >= 0).unsqueeze(-1)
            output = torch.where((added >= count).unsqueeze(-1), rows, output)
        return output if request.callback is None else request.callback.embedded(request.ids, output)

    def _keep_logit_positions(self, module: nn.Module, args: tuple) -> tuple | None:
        request = self.active_request()
        return None if request is None else (to_head(request, module, args[0], self._head_rows(request)), *args[1:])

    def _append_added_logits(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        request = self.active_request()
        return output if request is None else from_head(request, args[0], output, self._head_rows(request))

    def _head_rows(self, request: Request) -> list[Tensor]:
        return [self.added.head, *([] if request.codes is None else [cast(CodeRows, self.codes).head])]
