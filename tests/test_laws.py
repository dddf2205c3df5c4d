"""The laws, over every family: shut gates, caches and batches change nothing, and requests never meet."""

import copy
import functools
import itertools
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from encoders.base import Features
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.generation.decoder import Decoder
from mmlm.model.fusion.gated_block import MaskedCrossAttention
from mmlm.prompting.parts import Image
from mmlm.prompting.processor import Batch
from support import families, parts
from support.parts import likely_end

EVERY_FAMILY = pytest.mark.parametrize("family", [*families.FAMILIES, *families.READS_IDS_AGAIN])
PAIRS = [*itertools.product(families.FAMILIES, parts.WAYS), *((one, "latest") for one in families.READS_IDS_AGAIN)]
EVERY_PAIR = pytest.mark.parametrize(("family", "way"), PAIRS)
EVERY_WAY = pytest.mark.parametrize("way", parts.WAYS)
FEW_FAMILIES = pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral", "gemma2", "lfm2"])
V = families.VOCAB


def shut(family: str) -> MultimodalLM:
    """Gates at zero, as new; the rest of the adapters and the added rows drawn."""
    model = parts.shared(family, opened=False)
    torch.manual_seed(5)
    torch.nn.init.normal_(model.language_model.added.embedding, std=0.5)
    return model


@torch.no_grad()
def embedded_by_hand(model: MultimodalLM, ids: Tensor) -> Tensor:
    """Input embeddings with the added rows put in their places, one by one."""
    own = model.language_model.model.get_input_embeddings()(ids.clamp(max=V - 1)).clone()
    for row, column in (ids >= V).nonzero().tolist():
        own[row, column] = model.language_model.added.embedding[int(ids[row, column]) - V].to(own.dtype)
    return own


def ids_with_pictures(model: MultimodalLM) -> tuple[Tensor, list[list[Features]]]:
    """Two rows of 12 ids: two pictures and an end of chunk; one picture."""
    vocabulary = model.language_model.vocabulary
    draw = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 250, (2, 12), generator=draw)
    ids[0, 0] = ids[0, 6] = ids[1, 4] = vocabulary.image_id
    ids[0, 5] = vocabulary.end_of_chunk_id
    features = [Features(torch.randn(1, 5, 24, generator=draw)) for _ in range(3)]
    return ids, [features[:2], features[2:]]


# Gates at zero


@pytest.mark.parametrize("family", ["llama", "gpt2", *families.READS_IDS_AGAIN])
def test_a_copy_is_a_model_of_its_own(family):
    """Its hooks are of its own requests, those of embeddings that look the ids up again too."""
    model = parts.build(family)
    before = own_logits(model)
    twin = copy.deepcopy(model)
    assert torch.equal(own_logits(twin), before)
    with torch.no_grad():
        for _, parameter in twin.added_parameters():
            parameter.mul_(1.5)
    assert not torch.allclose(own_logits(twin), before)
    assert torch.equal(own_logits(model), before)


def own_logits(model: MultimodalLM) -> Tensor:
    batch, media = parts.encoded(model, parts.prompts())
    with torch.no_grad():
        return model(batch, media).logits


@EVERY_FAMILY
@torch.no_grad()
def test_shut_gates_leave_every_logit_as_it_was(family):
    model = shut(family)
    language_model = model.language_model.model
    ids, media = ids_with_pictures(model)
    text = ids.clamp(max=V - 1)
    batch = Batch(text, torch.ones_like(text))

    plain = families.language_model(family)(input_ids=text).logits  # a twin that was never touched
    assert torch.equal(language_model(input_ids=text).logits, plain), "outside a request"
    assert torch.equal(model(batch, [[], []]).logits[..., :V], plain), "text alone"

    if family in families.READS_IDS_AGAIN:  # which cannot be given embeddings
        return
    by_hand = language_model(inputs_embeds=embedded_by_hand(model, ids)).logits
    with_pictures = model(Batch(ids, torch.ones_like(ids)), media).logits
    assert with_pictures.shape[-1] == V + 3
    assert torch.equal(with_pictures[..., :V], by_hand), "with pictures"
    assert torch.equal(language_model(input_ids=text).logits, plain), "outside a request, afterwards"


@pytest.mark.parametrize("family", families.FAMILIES)
@torch.no_grad()
def test_shut_gates_leave_every_logit_as_it_was_with_cache(family):
    model = shut(family)
    host = model.language_model
    ids, media = ids_with_pictures(model)
    batch = Batch(ids, torch.ones_like(ids))
    steps = [torch.tensor([7, 201]), torch.tensor([host.vocabulary.end_of_chunk_id, 3]), torch.tensor([90, 91])]

    run = Decoder(host, model.media_context(batch, media), batch, len(steps))
    cache = DynamicCache(config=host.model.config)

    def plain(new: Tensor) -> Tensor:
        last = {"logits_to_keep": 1} if host.accepts("logits_to_keep") else {}  # another matmul has other last bits
        embeds = embedded_by_hand(model, new)
        return host.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True, **last).logits[:, -1]

    assert torch.equal(run.prefill()[:, :V], plain(ids))
    for tokens in steps:
        assert torch.equal(run.step(tokens)[:, :V], plain(tokens.unsqueeze(1)))


@EVERY_WAY
@FEW_FAMILIES
def test_training_moves_what_was_added_and_nothing_else(family, way):
    model = parts.build(family, visibility=way, opened=False)
    model.train()
    expected_names = functools.partial(parts.expected_names, way)
    assert {name for name, _ in model.added_parameters()} == expected_names()
    assert {name for name, tensor in model.named_parameters() if tensor.requires_grad} == expected_names()

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    examples = [
        model.processor.encode([parts.picture(seed), "Output:"], target=f" number {seed}") for seed in (1, 2, 3)
    ]
    batch = model.processor.collate(examples)
    optimizer = torch.optim.AdamW([tensor for _, tensor in model.added_parameters()], lr=0.01)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = model(batch, [example.media for example in examples]).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert {name for name, tensor in model.named_parameters() if tensor.grad is not None} == expected_names()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == expected_names()


# Cached = uncached, batch = single, padded = unpadded


@pytest.mark.parametrize(("family", "way"), [*PAIRS, *((family, "all") for family in families.FAMILIES)])
@torch.no_grad()
def test_cached_padded_batch_is_each_row_alone_uncached(family, way):
    model = parts.shared(family, visibility=way)
    rows, steps = parts.prompts(), 6
    run = parts.decoder(model, rows, steps)
    logits = [run.prefill()]
    for _ in range(steps):
        logits.append(run.step(logits[-1].argmax(-1)))
    written = run.ids[:, -steps:]
    for index, row in enumerate(rows):
        batch, media = parts.encoded(model, [row])
        ids = torch.cat([batch.input_ids, written[index : index + 1]], dim=1)
        alone = model(Batch(ids, torch.ones_like(ids)), media).logits[0, -steps - 1 :, : V + 1]
        together = torch.stack([step[index, : V + 1] for step in logits])
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=2e-4)


@EVERY_PAIR
@torch.no_grad()
def test_right_padded_training_rows_are_each_row_alone(family, way):
    model = parts.shared(family, visibility=way)
    examples = [model.processor.encode(row, target="ok") for row in parts.prompts()]
    batch = model.processor.collate(examples, padding_side="right")
    media = [example.media for example in examples]
    placed = model.media_context(batch, media).placed(batch).labels
    together = model(replace(batch, labels=None), media).logits
    for index, example in enumerate(examples):
        alone = model(replace(model.processor.collate([example]), labels=None), [example.media]).logits[0]
        torch.testing.assert_close(together[index, : len(alone)], alone, rtol=1e-3, atol=2e-4)
    labelled = model(batch, media)
    foretold = [logits[:-1][labels[1:] >= 0] for logits, labels in zip(together, placed, strict=True)]
    torch.testing.assert_close(labelled.logits, torch.cat(foretold), rtol=1e-3, atol=2e-4)
    by_hand = -sum(
        logits.double().log_softmax(-1)[range(len(logits)), labels[labels >= 0]].sum()
        for logits, labels in zip(foretold, batch.labels, strict=True)
    )
    assert labelled.num_tokens == sum(map(len, foretold))
    assert float(labelled.loss) == pytest.approx(float(by_hand) / labelled.num_tokens, rel=1e-4)


@EVERY_PAIR
def test_greedy_tokens_are_those_of_transformers(family, way):
    model = parts.shared(family, visibility=way, own_end=True)
    ours = parts.token_ids(model, parts.prompts(), max_new_tokens=8)
    assert ours == parts.upstream_ids(model, parts.prompts(), max_new_tokens=8)


@FEW_FAMILIES
@pytest.mark.parametrize("way, length_penalty", [("latest", -2.0), ("latest", 0.0), ("latest", 3.0), ("prefix", 1.0)])
def test_beams_are_those_of_transformers(family, way, length_penalty):
    model = parts.shared(family, visibility=way, own_end=True)
    options = dict(num_beams=3, length_penalty=length_penalty, max_new_tokens=9)
    ours = parts.token_ids(model, parts.prompts(), **options)
    assert ours == parts.upstream_ids(model, parts.prompts(), **options)


@pytest.mark.parametrize("visibility", ["group", "all"])
def test_beams_of_wider_visibility_are_those_of_transformers(visibility):
    model = parts.shared("gpt2", visibility=visibility)
    rows = [*parts.prompts(), [parts.picture(5), parts.picture(6), "both: ", parts.picture(7), parts.picture(8), "?"]]
    options = dict(num_beams=3, max_new_tokens=9)
    assert parts.token_ids(model, rows, **options) == parts.upstream_ids(model, rows, **options)


@pytest.mark.parametrize("length_penalty", [-2.0, 0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("num_beams", [2, 4])
def test_beams_that_end_early_are_those_of_transformers(num_beams, length_penalty):
    model = likely_end()
    stops = model.language_model.stop_ids
    rows = [[parts.picture(seed), text] for seed in range(4) for text in ("a", "What is it? ")]
    options = dict(num_beams=num_beams, length_penalty=length_penalty, max_new_tokens=12)
    ours = parts.token_ids(model, rows, num_return_sequences=2, **options)
    assert ours == parts.upstream_ids(model, rows, num_return_sequences=2, **options)
    ended = [ids[-1] in stops for ids in ours]
    assert any(ended), "the case tests nothing unless some hypotheses end"


def test_more_return_sequences_with_more_rows():
    model = parts.shared("llama")
    rows = parts.prompts()
    sampled = parts.texts(model, rows, max_new_tokens=5, do_sample=True, num_return_sequences=3, seed=1)
    assert [len(texts) for texts in sampled] == [3, 3, 3]
    beams = parts.texts(model, rows, max_new_tokens=5, num_beams=3, num_return_sequences=2)
    assert [texts[0] for texts in beams] == parts.texts(model, rows, max_new_tokens=5, num_beams=3)
    assert all(first != second for first, second in beams)


# What is done once a request


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 3}, {"do_sample": True, "num_return_sequences": 4}],
)
@pytest.mark.parametrize("visibility", ["latest", "group", "all"])
def test_encoder_resampler_and_media_keys_run_once_a_request(options, visibility, monkeypatch):
    model = parts.build("llama", visibility=visibility)
    pictures, resampled, keys = [], [], []
    encode = model.encoders["image"].encode
    monkeypatch.setattr(
        model.encoders["image"], "encode", lambda batch: (pictures.append(len(batch)), encode(batch))[1]
    )
    model.resamplers["image"].register_forward_hook(lambda m, args, out: resampled.append(len(out)))
    for module in model.modules():
        if isinstance(module, MaskedCrossAttention):
            module.to_kv.register_forward_hook(lambda m, args, out: keys.append(len(out)))
    parts.texts(model, parts.prompts(), max_new_tokens=6, **options)
    assert pictures == [3], "three pictures in one batch, whatever the beams and samples"
    assert resampled == [3]
    assert keys == [3, 3, 3], "once for each of the three gated blocks"


# Order of time


@pytest.mark.parametrize("way, taken", [("all", 1), ("prefix", 4)])
@FEW_FAMILIES
@torch.no_grad()
def test_text_before_a_picture_does_not_see_it(family, way, taken):
    model = parts.shared(family, visibility=way)
    states: list[Tensor] = []
    last = model.language_model.blocks[-1]

    def hidden(seed: int) -> Tensor:
        batch, media = parts.encoded(model, [["before it ", parts.picture(9), "between", parts.picture(seed), "after"]])
        hook = last.register_forward_hook(lambda m, args, out: states.append(out[0] if isinstance(out, tuple) else out))
        try:
            model(batch, media)
        finally:
            hook.remove()
        return states.pop()[0]

    one, other = hidden(1), hidden(2)
    place = len("before it ") + taken + len("between")
    # An expert of Mixtral multiplies the tokens that chose it together, and some processors round by how many they are.
    tolerance = 1e-6 if family == "mixtral" else 0.0
    torch.testing.assert_close(one[:place], other[:place], rtol=tolerance, atol=tolerance)
    assert ((one[place:] - other[place:]).abs().amax(-1) > 1e-4).all(), "the picture's own token and all that follow"


@EVERY_WAY
@pytest.mark.parametrize("pictures, placeholders", [(1, 2), (2, 1), (0, 1), (1, 0)])
def test_pictures_and_placeholders_must_agree_row_by_row(pictures, placeholders, way, monkeypatch):
    model = parts.shared("llama", visibility=way)
    image_id = model.language_model.vocabulary.image_id
    ids = torch.full((3, 4), 65)
    ids[0, 0] = image_id
    ids[1, :placeholders] = image_id
    media = [[parts.picture(0)], [parts.picture(i) for i in range(pictures)], []]

    def never(*args: Any) -> None:
        raise AssertionError("nothing may be encoded")

    monkeypatch.setattr(model.encoders["image"], "encode", never)
    with pytest.raises(ValueError, match=f"row 1 .*{placeholders} <image>.* {pictures} image"):
        model(Batch(ids, torch.ones_like(ids)), media)
    with pytest.raises(ValueError, match="3 rows.* 2"):
        model(Batch(ids, torch.ones_like(ids)), media[:2])


def test_a_prompt_of_text_alone_needs_no_picture():
    model = parts.shared("llama")
    with_others = parts.texts(model, parts.prompts(), max_new_tokens=6)[1]
    assert parts.texts(model, parts.prompts()[1], max_new_tokens=6) == with_others
    assert parts.texts(model, [parts.prompts()[1]], max_new_tokens=6) == [with_others]
    assert parts.texts(model, "".join(parts.prompts()[1]), max_new_tokens=6) == with_others


# Nothing left behind


class Broken(RuntimeError):
    pass


def check_unchanged(model: MultimodalLM, family: str, expected: list[str]) -> None:
    ids = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(
            model.language_model.model(input_ids=ids).logits, families.language_model(family)(input_ids=ids).logits
        )
    assert parts.texts(model, parts.prompts(), max_new_tokens=6) == expected


@EVERY_WAY
@FEW_FAMILIES
def test_an_exception_anywhere_leaves_the_model_as_it_was(family, way, monkeypatch):
    model = parts.build(family, visibility=way)
    expected = parts.texts(model, parts.prompts(), max_new_tokens=6)

    with monkeypatch.context() as patch, pytest.raises(Broken):
        patch.setattr(model.encoders["image"], "encode", raising_at(0))
        parts.texts(model, parts.prompts(), max_new_tokens=6)
    check_unchanged(model, family, expected)

    for call in (0, 1, 3):  # in the prompt, in the first step, later
        hook = model.language_model.blocks[-1].register_forward_pre_hook(raising_at(call))
        with pytest.raises(Broken):
            parts.texts(model, parts.prompts(), max_new_tokens=6)
        hook.remove()
        check_unchanged(model, family, expected)

    with pytest.raises(ValueError):
        parts.texts(model, [parts.picture(0), "text"], max_new_tokens=10_000)
    check_unchanged(model, family, expected)


def raising_at(call: int):
    calls = iter(range(1000))

    def raises(*args: Any) -> None:
        if next(calls) == call:
            raise Broken

    return raises


@FEW_FAMILIES
def test_an_abandoned_stream_leaves_the_model_as_it_was(family):
    model = parts.build(family)
    expected = parts.texts(model, parts.prompts(), max_new_tokens=6)
    pieces = model.stream(parts.prompts()[0], max_new_tokens=20)
    next(pieces)
    check_unchanged(model, family, expected)  # while it is open
    pieces.close()
    check_unchanged(model, family, expected)


@EVERY_WAY
def test_between_the_pieces_of_a_stream_the_thread_is_the_callers_own(way):
    model = parts.build("llama", visibility=way)
    whole = parts.texts(model, parts.prompts()[0], max_new_tokens=12)
    other = parts.texts(model, parts.prompts()[2], max_new_tokens=12)
    ids = torch.arange(20).unsqueeze(0)
    plain = families.language_model("llama")(input_ids=ids).logits
    pieces = []
    for count, piece in enumerate(model.stream(parts.prompts()[0], max_new_tokens=12)):
        pieces.append(piece)
        assert torch.is_grad_enabled()
        assert torch.equal(model.language_model.model(input_ids=ids).logits, plain)
        if count == 1:
            assert parts.texts(model, parts.prompts()[2], max_new_tokens=12) == other
    assert len(pieces) > 2
    assert "".join(pieces) == whole

    # Two streams, piece by piece in turn.
    first, second = (model.stream(row, max_new_tokens=12) for row in (parts.prompts()[0], parts.prompts()[2]))
    texts = ["", ""]
    for _ in range(12):
        texts[0] += next(first, "")
        texts[1] += next(second, "")
    assert texts == [whole, other]


@EVERY_WAY
def test_threads_that_generate_at_once_do_not_meet(way):
    model = parts.shared("llama", visibility=way)
    rows = [[parts.picture(seed), f"{seed} Output:"] for seed in range(4)]
    options = [{}, {"num_beams": 3}, {"do_sample": True, "seed": 4}, {}]
    alone = [parts.texts(model, row, max_new_tokens=16, **o) for row, o in zip(rows, options, strict=True)]
    assert len(set(alone)) == 4
    results: dict[int, list[str]] = {}
    failures: list[BaseException] = []
    start = threading.Barrier(len(rows))

    def work(index: int) -> None:
        try:
            start.wait()
            results[index] = [parts.texts(model, rows[index], max_new_tokens=16, **options[index]) for _ in range(3)]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert results == {index: [text] * 3 for index, text in enumerate(alone)}


def test_a_request_of_one_model_does_not_touch_another():
    one, other = parts.build("llama"), parts.build("gpt2")
    ids = torch.arange(20).unsqueeze(0)
    plain = families.language_model("gpt2")(input_ids=ids).logits
    batch, media = parts.encoded(one, [[parts.picture(0), "abc"]])
    with one.language_model.request(one.media_context(batch, media)):
        assert torch.equal(other.language_model.model(input_ids=ids).logits, plain)


def test_image_parts_and_features_say_the_same():
    model = parts.shared("llama")
    picture = parts.picture(4)
    features = model.encode_media([Image(picture)])[0]
    assert features.tokens.shape == (1, 16, 24)
    texts = [
        parts.texts(model, [item, "Output:"], max_new_tokens=8)
        for item in (picture, Image(picture), features, Image(features))
    ]
    assert len(set(texts)) == 1


def test_a_picture_given_several_times_is_encoded_once(monkeypatch):
    model = parts.build("llama")
    encoder, rows = model.encoders["image"], []
    encode = type(encoder).encode
    monkeypatch.setattr(encoder, "encode", lambda batch: rows.append(len(batch)) or encode(encoder, batch))
    shot, images = parts.picture(1), [parts.picture(2), parts.picture(3)]
    together = model.caption(images, examples=[(shot, "one")], max_new_tokens=8)
    assert rows == [3], "the demonstration and two pictures"
    assert together == [model.caption(image, examples=[(shot, "one")], max_new_tokens=8) for image in images]


def test_a_batch_without_labels_to_learn_from_is_an_error():
    model = parts.shared("llama")
    batch = model.processor.collate([model.processor.encode(["no answer"])])
    with pytest.raises(ValueError, match="target"):
        model(batch, [[]])
