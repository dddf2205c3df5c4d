"""Prefix fusion: media among the words, beside twins of the language model that are given embeddings by hand."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mmlm
from encoders.base import Features
from mmlm.assembly import Codecs, extended
from mmlm.assembly.inspect import inspect
from mmlm.assembly.interop import open_flamingo
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.cli import main
from mmlm.data import Record, RecordSet
from mmlm.model.config import FusionConfig, ResamplerConfig
from mmlm.model.fusion.interface import MediaItems
from mmlm.model.fusion.prefix import PrefixContext, spread
from mmlm.model.language_model import LanguageModel
from mmlm.prompting import Image
from mmlm.prompting.messages import Message
from mmlm.prompting.processor import Batch
from mmlm.training.config import TrainConfig
from mmlm.training.examples import prepare
from mmlm.training.objectives.adapters import AdaptersObjective
from mmlm.training.recipe import load_recipe
from mmlm.training.rows import batch_of
from support import families, parts
from support.codec_parts import image_codec
from support.references import gelu, numpy_weights
from support.training_objectives import png, tiny_records

EVERY_FAMILY = pytest.mark.parametrize("family", list(families.FAMILIES))
V = families.VOCAB
LATENTS = parts.RESAMPLER.num_latents


# What is embedded, and where


@EVERY_FAMILY
@torch.no_grad()
def test_text_alone_is_that_of_the_language_model_bit_for_bit(family):
    model = parts.shared(family, visibility="prefix")
    ids = torch.randint(0, 250, (2, 12), generator=torch.Generator().manual_seed(3))
    plain = families.language_model(family)(input_ids=ids).logits  # a twin that was never touched
    assert torch.equal(model(Batch(ids, torch.ones_like(ids)), [[], []]).logits[..., :V], plain)
    assert torch.equal(model.language_model.model(input_ids=ids).logits, plain), "outside a request"


@EVERY_FAMILY
@torch.no_grad()
def test_embeddings_of_words_in_the_places_of_media_are_the_words(family):
    model = parts.shared(family, visibility="prefix")
    host, image = model.language_model, model.language_model.vocabulary.image_id
    words = torch.randint(0, 250, (1, 12), generator=torch.Generator().manual_seed(4))
    own = host.model.get_input_embeddings()(words[0])
    items = MediaItems(torch.stack([own[2:5], own[8:11]]), torch.tensor([0, 0]), torch.tensor([0, 1]))
    context = PrefixContext(model.fusion.media_ids, host.vocabulary.pad_id, 1, items, items.latents)
    ids = torch.cat([words[:, :2], torch.tensor([[image]]), words[:, 5:8], torch.tensor([[image]]), words[:, 11:]], 1)
    batch = context.placed(Batch(ids, torch.ones_like(ids)))
    assert batch.input_ids.shape == words.shape
    with host.request(context):
        found = host(batch.input_ids, use_cache=False).logits
    assert torch.equal(found[..., :V], families.language_model(family)(input_ids=words).logits)


def projected(model: MultimodalLM, item: Features) -> Tensor:
    """The embeddings of one item, by two matrices and a GELU."""
    latents = model.resamplers["image"](item.tokens)[0].detach().double().numpy()
    w = numpy_weights(model.fusion.projector)
    hidden = gelu(latents @ w["0.weight"].T + w["0.bias"])
    return torch.from_numpy(hidden @ w["2.weight"].T + w["2.bias"]).float()


@EVERY_FAMILY
@torch.no_grad()
def test_the_whole_forward_is_a_twin_given_embeddings_by_hand(family):
    model = parts.shared(family, visibility="prefix")
    vocabulary, twin = model.language_model.vocabulary, families.language_model(family)
    draw = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 250, (9,), generator=draw)
    ids[0] = ids[4] = ids[5] = vocabulary.image_id
    ids[7] = vocabulary.end_of_chunk_id
    media = [Features(torch.randn(1, 5, 24, generator=draw)) for _ in range(3)]
    rows, items = [], iter(media)
    for token in ids.tolist():
        if token == vocabulary.image_id:
            rows.append(projected(model, next(items)))
        elif token >= V:
            rows.append(model.language_model.added.embedding[token - V][None])
        else:
            rows.append(twin.get_input_embeddings()(torch.tensor([token])))
    expected = twin(inputs_embeds=torch.cat(rows)[None]).logits
    found = model(Batch(ids[None], torch.ones_like(ids)[None]), [media]).logits
    assert found.shape[1] == 6 + 3 * LATENTS
    torch.testing.assert_close(found[..., :V], expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_are_spread_as_lists_are(data):
    left = data.draw(st.booleans())
    rows = data.draw(st.lists(st.lists(st.integers(-3, 9), min_size=1, max_size=8), min_size=1, max_size=4))
    counts = [data.draw(st.integers(1, 5)) for row in rows for token in row if token < 0]  # negative: a medium

    def padded(rows: list[list[int]], empty: int) -> Tensor:
        longest = max(map(len, rows))
        return torch.tensor(
            [[empty] * (longest - len(r)) + r if left else r + [empty] * (longest - len(r)) for r in rows]
        )

    ids, mask = padded(rows, 99), padded([[1] * len(row) for row in rows], 0)
    found = spread(Batch(ids, mask, ids * 10), (ids < 0) & (mask > 0), torch.tensor(counts), pad_id=99)
    left = left or bool(mask.all())
    following = iter(counts)
    expected = [[token for token in row for _ in range(next(following) if token < 0 else 1)] for row in rows]
    assert found.input_ids.tolist() == padded(expected, 99).tolist()
    assert found.attention_mask.tolist() == padded([[1] * len(row) for row in expected], 0).tolist()
    assert found.labels.tolist() == padded([[10 * token for token in row] for row in expected], -100).tolist()


@torch.no_grad()
def test_a_prompt_in_pieces_reads_the_media_of_the_whole():
    model = parts.shared("llama", visibility="prefix")
    batch, media = parts.encoded(model, parts.prompts())
    whole = model.media_context(batch, media)
    ids = whole.placed(batch).input_ids
    blank = torch.zeros(*ids.shape, families.WIDTH)
    expected = whole.embedded(ids, blank)
    assert bool(expected.any())
    for cuts in ([1] * ids.shape[1], [3, ids.shape[1] - 3]):
        context = model.media_context(batch, media)
        pieces = [context.embedded(part, blank[:, : part.shape[1]]) for part in ids.split(cuts, dim=1)]
        assert torch.equal(torch.cat(pieces, 1), expected)
    beams = model.media_context(batch, media).embedded(ids.repeat_interleave(3, 0), blank.repeat_interleave(3, 0))
    assert torch.equal(beams, expected.repeat_interleave(3, 0))


# Items of unequal lengths, requests of every kind


def test_sounds_take_as_many_places_as_they_have_tokens():
    model = parts.shared("llama", visibility="prefix", ears="tokens")
    rows = [
        [parts.sound(0.3, 1), "a", parts.picture(1), "b"],
        ["only words"],
        [parts.sound(0.9, 2), parts.sound(0.2, 3)],
    ]
    batch, media = parts.encoded(model, rows)
    context = model.media_context(batch, media)
    placed = context.placed(batch)
    own = [int(mask.sum()) for mask in placed.attention_mask]
    items = [
        sum(token in model.language_model.vocabulary.media_ids for token in row) for row in batch.input_ids.tolist()
    ]
    taken = context.latents_per_row()
    assert taken[1] == 0 and taken[2] > taken[0] - LATENTS > 1
    assert own == [int(mask.sum()) - n + t for mask, n, t in zip(batch.attention_mask, items, taken, strict=True)]
    together = parts.texts(model, rows, max_new_tokens=8)
    assert together == [parts.texts(model, row, max_new_tokens=8) for row in rows]
    assert parts.token_ids(model, rows, max_new_tokens=8) == parts.upstream_ids(model, rows, max_new_tokens=8)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 4, "seed": 3}])
def test_encoder_resampler_and_projector_run_once_a_request(options):
    model = parts.build("llama", visibility="prefix")
    resampled, made = [], []
    model.resamplers["image"].register_forward_hook(lambda m, args, out: resampled.append(len(out)))
    model.fusion.projector.register_forward_hook(lambda m, args, out: made.append(len(out)))
    parts.texts(model, parts.prompts(), max_new_tokens=6, **options)
    assert resampled == made == [3]


def test_a_stream_is_what_generate_writes_and_usage_counts_the_places():
    model = parts.shared("gpt2", visibility="prefix")
    row = parts.prompts()[0]
    result = model.generate(row, max_new_tokens=10)
    assert "".join(model.stream(row, max_new_tokens=10)) == result.text
    assert result.usage.media_items == 2 and result.usage.media_latents == 2 * LATENTS
    (values,) = model.log_probs([row], [result])
    np.testing.assert_allclose(result.log_probs, values.detach(), atol=1e-4)


@pytest.mark.parametrize("weights", ["exact", "int8"])
def test_packed_and_recorded_steps_write_the_same(weights):
    model = parts.build("llama", visibility="prefix")
    plain = parts.texts(model, parts.prompts(), max_new_tokens=30)
    beams = parts.texts(model, parts.prompts(), max_new_tokens=30, num_beams=3)
    model.pack(weights)
    assert model.language_model.acceleration.records_on == "cpu"
    if weights == "exact":
        assert parts.texts(model, parts.prompts(), max_new_tokens=30) == plain
        assert parts.texts(model, parts.prompts(), max_new_tokens=30, num_beams=3) == beams
    else:
        assert len(parts.texts(model, parts.prompts(), max_new_tokens=30)) == 3
    assert parts.texts(model.unpack(), parts.prompts(), max_new_tokens=30) == plain


def test_demonstrations_in_a_batch_are_those_of_each_row():
    model = parts.shared("llama", visibility="prefix")
    shot, images = parts.picture(1), [parts.picture(2), parts.picture(3)]
    options = dict(max_new_tokens=8, details=True)
    together = model.caption(images, examples=[(shot, "one")], **options)
    alone = [model.caption(image, examples=[(shot, "one")], **options) for image in images]
    other = model.caption(images[0], examples=[(parts.picture(4), "one")], **options)
    for one, own in zip(together, alone, strict=True):
        assert one.token_ids == own.token_ids
        np.testing.assert_allclose(one.log_probs, own.log_probs, atol=1e-4)
    assert abs(alone[0].log_probs[0] - alone[1].log_probs[0]) > 1e-3, "the picture is seen"
    assert abs(alone[0].log_probs[0] - other.log_probs[0]) > 1e-3, "and that of the demonstration"


def test_what_has_no_room_with_its_media_is_refused():
    model = parts.build("llama", visibility="prefix")  # 256 positions
    row = [parts.picture(1), "x" * 200]
    assert model.generate(row, max_new_tokens=256 - 200 - LATENTS)
    with pytest.raises(ValueError, match="257 tokens.*256 positions"):
        model.generate(row, max_new_tokens=257 - 200 - LATENTS)
    example = model.processor.encode([parts.picture(1), "x" * 240], target="y" * 13)
    with pytest.raises(ValueError, match="258 tokens.*256 positions"):
        model(model.processor.collate([example]), [example.media])


# Training


def loss_and_gradient(model: MultimodalLM, examples: list[Any]) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    output = model(model.processor.collate(examples), [example.media for example in examples])
    (output.loss * output.num_tokens).backward()
    own = {name: tensor.grad.clone() for name, tensor in model.added_parameters() if tensor.grad is not None}
    return float(output.loss.detach()) * output.num_tokens, own


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "lfm2"])
def test_losses_and_gradients_of_a_batch_are_those_of_its_rows(family):
    model = parts.build(family, visibility="prefix")
    model.train()
    examples = [model.processor.encode(row, target="an answer") for row in parts.prompts()]
    loss, gradient = loss_and_gradient(model, examples)
    alone = [loss_and_gradient(model, [example]) for example in examples]
    assert loss == pytest.approx(sum(own for own, _ in alone), rel=1e-5)
    for name, found in gradient.items():
        expected = torch.stack([own[name] for _, own in alone if name in own]).sum(0)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max() + 1e-6))
    parts.checkpointing(model)
    again, checkpointed = loss_and_gradient(model, examples)
    assert again == loss and all(torch.equal(checkpointed[name], found) for name, found in gradient.items())


def prefix_model(seed: int = 0) -> MultimodalLM:
    return mmlm.assemble(
        families.language_model("llama"), parts.image_encoder(), tokenizer=families.tokenizer(),
        resampler=ResamplerConfig(depth=0), fusion=FusionConfig(kind="prefix"), seed=seed,
    )  # fmt: skip


def test_a_run_learns_and_a_resumed_one_is_the_undisturbed_one(tmp_path):
    whole, resumed, stopped = (prefix_model() for _ in range(3))
    settings = dict(steps=12, batch_size=4, precision="float32", save_every=6, eval_every=6, progress=False)
    data, held = tiny_records(12), tiny_records(4, 12)
    result = mmlm.train(whole, data, held_out=held, output=tmp_path / "whole", learning_rate=3e-3, **settings)
    lines = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    held_out = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    assert held_out[-1] < held_out[0] == pytest.approx(max(held_out)) and result.held_out_loss == held_out[-1]

    class Stop(RuntimeError):
        pass

    def stop(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 11:  # in the second step after a checkpoint
            raise Stop

    calls: list[Any] = []
    stopped.fusion.projector.register_forward_pre_hook(stop)
    with pytest.raises(Stop):
        mmlm.train(stopped, data, held_out=held, output=tmp_path / "resumed", learning_rate=3e-3, **settings)
    mmlm.train(resumed, data, held_out=held, output=tmp_path / "resumed", learning_rate=3e-3, **settings)
    for (name, one), (_, other) in zip(whole.added_parameters(), resumed.added_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_texts_that_have_no_room_beside_their_media_are_left_out(tmp_path):
    model = prefix_model()  # 256 positions, of which a picture takes 16
    around = len(model.processor.encode([parts.picture(0), "Output:"], target="").input_ids)
    long = [
        replace(own, captions=("y" * (256 - 15 - around + more),), qa=()) for more, own in enumerate(tiny_records(3))
    ]
    settings = dict(steps=1, batch_size=2, bad_limit=0.5, progress=False, output=tmp_path)
    result = mmlm.train(model, RecordSet((*long, *tiny_records(8, 3))), **settings)
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "bad_records.jsonl").read_text().splitlines()]
    assert result.bad_records == 2 and reasons == [
        f"text and media take {256 + more} of the language model's 256 positions" for more in (1, 2)
    ]


def test_lengths_and_throughput_count_the_positions_of_media(tmp_path):
    model, config = prefix_model(), TrainConfig(steps=1, batch_size=6, precision="float32")
    two = Record(
        "two",
        messages=(
            Message("user", (Image(png((9, 9, 9))), "or", Image(png((200, 0, 0))), "?")),
            Message("assistant", ("No.",)),
        ),
    )
    records = RecordSet((*tiny_records(5), two))
    examples = prepare(model, records, cache=tmp_path, config=config, progress=False)
    seen = {}
    for record, entry in enumerate(records):
        for text in range(len(entry.texts)):
            batch, media = batch_of(model.processor, [examples.ready([(record, text)])])
            seen[record, text] = int(model.media_context(batch, media).placed(batch).attention_mask.sum())
            assert examples.length(record, text) == seen[record, text]
    assert seen[5, 0] > 2 * 16, "two pictures"
    objective = AdaptersObjective(model, examples, None, config)
    (part,) = objective.parts(0)
    assert part.size == sum(seen[chosen] for chosen in objective.stream.step(0))


def test_recipes_choose_it_by_one_key(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "model: {language_model: a, image_encoder: b, fusion: {kind: prefix}}\ndata: d\noutput: o\nsteps: 1\n"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.model.new_adapters() == {"fusion": FusionConfig(kind="prefix")}
    with pytest.raises(ValueError, match="visibility: of gated blocks"):
        load_recipe(tmp_path / "recipe.yaml", ["model.fusion.visibility=all"])


def test_codes_follow_a_picture_of_the_prompt():
    model = extended(parts.build("llama", visibility="prefix"), Codecs(image=image_codec()))
    (layout,) = model.language_model.vocabulary.layouts
    prompts = [[parts.picture(seed), "draw it again"] for seed in (1, 2)]
    found = [model.generate(prompt, generation_mode="image") for prompt in prompts]
    for one, prompt in zip(found, prompts, strict=True):
        assert len(one.media) == 1 and len(one.token_ids) == layout.rows - layout.codebook_size + layout.codes
        (values,) = model.log_probs([prompt], [one], codes=True, lora=True)
        np.testing.assert_allclose(one.log_probs, values.detach(), atol=1e-3)
    assert not np.allclose(found[0].log_probs, found[1].log_probs, atol=0.01), "the pictures of the prompts differ"


def test_a_saved_model_is_the_same_model_and_tells_its_fusion(tmp_path, capsys):
    model = parts.build("llama", visibility="prefix", opened=False)
    given = dict(language_model=families.language_model("llama"), tokenizer=families.tokenizer())
    untrained = model.save(tmp_path / "new")
    assert not inspect(untrained).trained and model.fusion.is_untrained
    with pytest.warns(UserWarning, match="never trained"):
        model.generate(parts.prompts()[0], max_new_tokens=1)
    parts.open_gates(model)
    folder = model.save(tmp_path / "model")
    assert inspect(folder).trained
    assert main(["inspect", str(folder)]) == 0
    assert "fusion          a projector into the embeddings" in capsys.readouterr().out
    again = mmlm.load(folder, image_encoder=parts.image_encoder(), **given)
    assert again.fusion_config == FusionConfig(kind="prefix") and "projector" in repr(again)
    batch, media = parts.encoded(model, parts.prompts())
    assert torch.equal(again(batch, media).logits, model(batch, media).logits)
    with pytest.raises(ValueError, match="must join by cross-attention"):
        open_flamingo.save(again, tmp_path / "checkpoint.pt")


def test_settings_that_prefix_has_none_of_are_refused():
    with pytest.raises(ValueError, match="heads: of gated blocks.*prefix"):
        FusionConfig(kind="prefix", heads=4)
    with pytest.raises(ValueError, match="'cross_attention' or 'prefix', not 'deep'"):
        FusionConfig(kind="deep")


# Language models that read more of a token than its embedding


SMALL = dict(
    vocab_size=V, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    intermediate_size=48, max_position_embeddings=256,
)  # fmt: skip


def joined(language_model: torch.nn.Module) -> MultimodalLM:
    for parameter in language_model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    tokenizer = families.tokenizer()
    tokenizer.eos_token = language_model.generation_config.eos_token_id = None
    host = LanguageModel(language_model.eval(), tokenizer)
    model = MultimodalLM(host, parts.image_encoder(), parts.RESAMPLER, FusionConfig(kind="prefix"))
    parts.open_gates(model)
    return model


@pytest.mark.parametrize("family", families.READS_IDS_AGAIN)
def test_embeddings_for_each_layer_are_refused_in_one_line(family):
    model = families.language_model(family)
    name = type(model).__name__
    with pytest.raises(ValueError, match=f"^{name} reads more of a token than its embedding.*another.*$"):
        joined(model)


def test_rotary_positions_of_several_axes_obey_the_laws():
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = transformers.Qwen2VLTextConfig(**SMALL, rope_parameters=rope).to_dict()
    vision = dict(depth=1, hidden_size=32, embed_dim=32, num_heads=2, mlp_ratio=1)
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision)
    model = joined(transformers.Qwen2VLForConditionalGeneration(config))
    run = parts.decoder(model, parts.prompts(), 5)
    with torch.no_grad():
        logits = [run.prefill()]
        for _ in range(5):
            logits.append(run.step(logits[-1][:, :V].argmax(-1)))
        for index, row in enumerate(parts.prompts()):
            batch, media = parts.encoded(model, [row])
            ids = torch.cat([batch.input_ids, run.ids[index : index + 1, -5:]], dim=1)
            alone = model(Batch(ids, torch.ones_like(ids)), media).logits[0, -6:]
            torch.testing.assert_close(torch.stack([step[index] for step in logits]), alone, rtol=1e-3, atol=2e-4)
