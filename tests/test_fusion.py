"""Gated cross-attention: masks against tables written by hand, the whole forward against a float64 reference."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from encoders.base import Features
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.generation.decoder import Decoder
from mmlm.model.fusion.gated_block import GatedCrossAttentionBlock
from mmlm.prompting.processor import Batch
from support import families, parts
from support.references import attention, gelu, layer_norm, numpy_weights
from support.watch import Watch

TEXT = ord("t")


@dataclass
class Case:
    """A row: I is a media token, t text; and for each position the items (from 1) that it sees."""

    row: str
    latest: list[str]
    group: list[str]
    all: list[str]


CASES = [
    Case(
        "ttItt",
        latest=["", "", "1", "1", "1"],
        group=["", "", "1", "1", "1"],
        all=["", "", "1", "1", "1"],
    ),
    Case(
        "tItIItt",
        latest=["", "1", "1", "2", "3", "3", "3"],
        group=["", "1", "1", "2", "23", "23", "23"],
        all=["", "1", "1", "12", "123", "123", "123"],
    ),
    Case(
        "IIttItIIt",
        latest=["1", "2", "2", "2", "3", "3", "4", "5", "5"],
        group=["1", "12", "12", "12", "3", "3", "4", "45", "45"],
        all=["1", "12", "12", "12", "123", "123", "1234", "12345", "12345"],
    ),
    Case(
        "tttttt",
        latest=["", "", "", "", "", ""],
        group=["", "", "", "", "", ""],
        all=["", "", "", "", "", ""],
    ),
]


def batch_of(model: MultimodalLM, rows: list[str], side: str) -> tuple[Batch, list[list[Features]]]:
    """Rows of the cases as ids, every text token another byte, and one Features an item."""
    vocabulary = model.language_model.vocabulary
    draw = torch.Generator().manual_seed(6)
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), vocabulary.pad_id)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        values = [vocabulary.image_id if c == "I" else int(torch.randint(0, 250, (), generator=draw)) for c in row]
        span = slice(longest - len(row), None) if side == "left" else slice(0, len(row))
        ids[index, span], mask[index, span] = torch.tensor(values), 1
    media = [
        [Features(torch.randn(1, 5, 24, generator=draw, dtype=torch.float64)) for c in row if c == "I"] for row in rows
    ]
    return Batch(ids, mask), media


# Masks


def seen(context, rows: list[str], side: str, latents: int) -> list[list[str]]:
    """What a context's view says that each position sees, as in the tables."""
    mask, blind = context.view.mask.squeeze(1), context.view.blind.squeeze(-1)
    found = []
    for index, row in enumerate(rows):
        start = mask.shape[1] - len(row) if side == "left" else 0
        tables = []
        for position in range(start, start + len(row)):
            items = mask[index, position].view(-1, latents)
            assert (items.all(-1) == items.any(-1)).all(), "an item is seen whole or not at all"
            shown = "".join(str(number + 1) for number, item in enumerate(items[:, 0]) if item)
            tables.append("" if blind[index, position] else shown)
        found.append(tables)
    return found


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("visibility", ["latest", "group", "all"])
def test_masks_are_those_of_the_tables(visibility, side):
    model = parts.shared("llama", visibility=visibility)
    rows = [case.row for case in CASES]
    batch, media = batch_of(model, rows, side)
    context = model.media_context(batch, media)
    context.on_ids(batch.input_ids)
    assert seen(context, rows, side, latents=4) == [getattr(case, visibility) for case in CASES]


@pytest.mark.parametrize("visibility", ["latest", "group", "all"])
def test_a_prompt_in_pieces_sees_what_the_whole_sees(visibility):
    model = parts.shared("llama", visibility=visibility)
    rows = [case.row for case in CASES]
    batch, media = batch_of(model, rows, "left")
    whole = model.media_context(batch, media)
    whole.on_ids(batch.input_ids)
    for cuts in ([1] * 9, [4, 5], [8, 1]):
        pieces, masks, blinds = model.media_context(batch, media), [], []
        for ids in batch.input_ids.split(cuts, dim=1):
            pieces.on_ids(ids)
            masks.append(pieces.view.mask)
            blinds.append(pieces.view.blind)
        blind = torch.cat(blinds, dim=1)
        assert torch.equal(blind, whole.view.blind)
        hidden = blind.unsqueeze(1)  # a blind token's mask is open, and its output is set to zero
        assert torch.equal(torch.cat(masks, dim=2) | hidden, whole.view.mask | hidden)


# The whole forward


BLOCKS = {"gpt2": "transformer.h", "llama": "model.layers", "gpt_neox": "gpt_neox.layers", "gemma2": "model.layers"}


def gated_by_hand(
    w: dict[str, np.ndarray], x: np.ndarray, items: list[np.ndarray], sees: list[str], heads: int
) -> np.ndarray:
    """`x [T, D]`: x += tanh(attn_gate)·attn(LN x, items seen); x += tanh(ff_gate)·FF(x). No item seen, no attention."""
    queries = layer_norm(x, w["attn.norm.weight"], w["attn.norm.bias"]) @ w["attn.to_q.weight"].T
    out = x.copy()
    for position, shown in enumerate(sees):
        if shown:
            media = np.concatenate([items[int(number) - 1] for number in shown])
            both = media @ w["attn.to_kv.weight"].T
            inner = both.shape[1] // 2
            attended = attention(queries[position : position + 1], both[:, :inner], both[:, inner:], heads)
            out[position] += np.tanh(w["attn_gate"]) * (attended @ w["attn.to_out.weight"].T)[0]
    hidden = gelu(layer_norm(out, w["ff.0.weight"], w["ff.0.bias"]) @ w["ff.1.weight"].T)
    return out + np.tanh(w["ff_gate"]) * (hidden @ w["ff.3.weight"].T)


@torch.no_grad()
def forward_by_hand(
    model: MultimodalLM, family: str, ids: Tensor, media: list[Features], sees: list[str], every: int
) -> Tensor:
    """One row through an untouched float64 twin of the language model, hand-made gated blocks between its blocks."""
    twin = families.language_model(family).double()
    embedding = twin.get_input_embeddings()(ids.clamp(max=families.VOCAB - 1))
    added = model.language_model.added
    for position, token in enumerate(ids.tolist()):
        if token >= families.VOCAB:
            embedding[position] = added.embedding[token - families.VOCAB]
    latents = [model.resamplers["image"].double()(item.tokens)[0].numpy() for item in media]
    for number, block in enumerate(twin.get_submodule(BLOCKS[family])):
        if (number + 1) % every == 0:
            weights = numpy_weights(model.fusion.layers[(number + 1) // every - 1])

            def before(module, args, kwargs, weights=weights):
                hidden = args[0] if args else kwargs["hidden_states"]
                hidden = torch.from_numpy(gated_by_hand(weights, hidden[0].numpy(), latents, sees, heads=2))[None]
                return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

            block.register_forward_pre_hook(before, with_kwargs=True)
    last = []
    twin.get_output_embeddings().register_forward_pre_hook(lambda module, args: last.append(args[0]))
    own = twin(inputs_embeds=embedding[None]).logits[0]
    extra = last[0][0] @ added.head.double().T
    if family == "gemma2":  # its own soft cap on logits holds for the added ones too
        extra = 30.0 * torch.tanh(extra / 30.0)
    return torch.cat([own, extra], dim=-1)


@pytest.mark.parametrize("visibility, every", [("latest", 1), ("latest", 2), ("group", 1), ("all", 1)])
@pytest.mark.parametrize("family", list(BLOCKS))
@torch.no_grad()
def test_the_whole_forward_equals_the_reference(family, visibility, every):
    model = parts.build(family, visibility=visibility, every=every)
    rows = [case.row for case in CASES]
    batch, media = batch_of(model, rows, "right")
    single = model(batch, media).logits.double()
    model.double()
    double = model(batch, media).logits
    for index, case in enumerate(CASES):
        ids = batch.input_ids[index, : len(case.row)]
        expected = forward_by_hand(model, family, ids, media[index], getattr(case, visibility), every)
        exact = 1e-6 if family == "gemma2" else 1e-9  # its attention's softmax is float32 whatever the weights
        torch.testing.assert_close(double[index, : len(ids)], expected, rtol=0, atol=exact)
        torch.testing.assert_close(single[index, : len(ids)], expected, rtol=1e-5, atol=5e-5)


@torch.no_grad()
def test_a_token_that_sees_nothing_still_passes_the_feed_forward():
    torch.manual_seed(0)
    block = GatedCrossAttentionBlock(8, 6, heads=2, dim_head=4, ff_mult=2).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(1, 3, 8, dtype=torch.float64)
    expected = gated_by_hand(numpy_weights(block), x[0].numpy(), [], ["", "", ""], heads=2)
    np.testing.assert_allclose(block(x, None, None)[0].numpy(), expected, atol=1e-12)


def test_names_and_shapes_are_those_of_openflamingo_checkpoints():
    found = {name: tuple(tensor.shape) for name, tensor in GatedCrossAttentionBlock(32, 24).state_dict().items()}
    assert found == {
        "attn_gate": (1,),
        "ff_gate": (1,),
        "attn.norm.weight": (32,),
        "attn.norm.bias": (32,),
        "attn.to_q.weight": (512, 32),
        "attn.to_kv.weight": (1024, 24),
        "attn.to_out.weight": (32, 512),
        "ff.0.weight": (32,),
        "ff.0.bias": (32,),
        "ff.1.weight": (128, 32),
        "ff.3.weight": (32, 128),
    }


@pytest.mark.parametrize("every, places", [(1, [0, 1, 2]), (2, [1]), (3, [2])])
def test_blocks_stand_before_every_nth_as_in_openflamingo(every, places):
    model = parts.build("llama", every=every)
    assert list(model.fusion.layer_before) == places
    assert len(model.fusion.layers) == len(places)


def test_impossible_places_and_visibilities_are_errors():
    for every in (0, 4):
        with pytest.raises(ValueError, match="1..3"):
            parts.build("llama", every=every)
    with pytest.raises(ValueError, match="latest"):
        parts.build("llama", visibility="newest")


def test_what_one_row_sees_does_not_reach_another():
    model = parts.shared("llama", visibility="all")
    rows = ["tItIt", "ItItt"]
    batch, media = batch_of(model, rows, "left")
    media = [[Features(item.tokens.float().requires_grad_()) for item in items] for items in media]
    model(batch, media).logits[0].sum().backward()
    assert all(item.tokens.grad.abs().sum() > 0 for item in media[0])
    assert all(item.tokens.grad.abs().sum() == 0 for item in media[1])


# Decoding steps


@pytest.mark.parametrize("visibility", ["latest", "group", "all"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
@torch.no_grad()
def test_a_step_reads_nothing_back_and_builds_no_media_mask(family, visibility):
    model = parts.shared(family, visibility=visibility)
    for rows in (parts.prompts()[:1], parts.prompts()):
        run = parts.decoder(model, rows, 5)
        tokens = run.prefill().argmax(-1)
        view, keys_values = run.context.view, run.context.keys_values
        plain, cache = model.language_model.model, DynamicCache(config=model.language_model.model.config)
        mask = run.mask[:, : run.length] if run.padded else None
        plain(run.ids[:, : run.length].clamp(max=0), attention_mask=mask, past_key_values=cache)
        for _ in range(3):
            with Watch() as watch:
                logits = run.step(tokens)
            with Watch() as alone:  # transformers itself reads the mask of a padded batch
                mask = run.mask[:, : run.length] if run.padded else None
                plain(tokens.clamp(max=0).unsqueeze(1), attention_mask=mask, past_key_values=cache)
            tokens = logits.argmax(-1)
            assert watch.names, "the watch sees operations"
            assert watch.reads <= (alone.reads if run.padded else 0)
            assert not [name for name in watch.names if "repeat_interleave" in name], "no media mask is made"
            assert run.context.view is view
            assert run.context.keys_values is keys_values


@torch.no_grad()
def test_a_step_looks_at_the_latest_item_alone():
    model = parts.shared("llama")
    run = parts.decoder(model, parts.prompts(), 5)
    assert run.context.keys_values[0][0].shape == (3, 2, 8, 8)  # rows, heads, two items of four latents, width
    run.prefill()
    assert run.context.keys_values[0][0].shape == (3, 2, 4, 8)
    assert run.context.view.mask is None


@torch.no_grad()
def test_beams_share_the_keys_of_their_row():
    model = parts.shared("llama")
    run: Decoder = parts.decoder(model, parts.prompts(), 5)
    run.prefill()
    before = [part.data_ptr() for pair in run.context.keys_values for part in pair]
    run.repeat(4)
    run.step(torch.full((12,), 70))
    assert [part.data_ptr() for pair in run.context.keys_values for part in pair] == before
    assert run.context.keys_values[0][0].shape[0] == 3
