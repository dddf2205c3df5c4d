"""Continuous batching: whatever others do meanwhile, a request gets what it gets alone."""

import functools
import gc
import threading
import time
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mmlm
from mmlm.assembly import Codecs, extended
from mmlm.generation import memory
from mmlm.generation.media import media_spans
from mmlm.generation.nonfinite import NonFiniteLogitsError
from mmlm.generation.options import GenerationOptions
from mmlm.generation.request import Writing, request
from mmlm.model.changes import ModelChangedError
from mmlm.model.config import LoraConfig
from mmlm.serving import preparing
from mmlm.serving.engine import Engine
from mmlm.serving.known import KnownMedia, Recent, digest_of, keys_of
from mmlm.serving.options import EngineOptions
from mmlm.serving.slots import Slots
from mmlm.serving.ticket import BusyError, CancelledError, DeadlineError, Token
from support import families, parts
from support.codec_parts import image_codec
from support.serving import until

WAIT = 60.0  # seconds, in which any of these requests ends
DEMONSTRATION = [parts.picture(7), "Output: seven of them.", parts.picture(8), "Output:"]
PROMPTS: list[list[Any]] = [
    [parts.picture(1), "Output:"],
    ["only text here, and rather more of it than elsewhere"],
    ["see: ", parts.picture(2), "and ", parts.picture(3), " as well"],
    DEMONSTRATION,
    [parts.picture(1), "Output: not the same"],
    [*DEMONSTRATION, " eight", parts.picture(9), "Output:"],
]
OPTIONS: list[dict[str, Any]] = [
    dict(max_new_tokens=20),
    dict(max_new_tokens=12, do_sample=True, temperature=1.3, top_k=50, seed=3),
    dict(max_new_tokens=9, repetition_penalty=1.4),
    dict(max_new_tokens=7, do_sample=True, num_return_sequences=3, seed=5),
    dict(max_new_tokens=16, stop=["a", "e"]),
    dict(max_new_tokens=1),
]
ROWS_IN_ONE = ("opt", "qwen2_moe")  # whose adapted layers are given the tokens of all rows in one
ASKED = [(prompt, OPTIONS[(index + turn) % len(OPTIONS)]) for turn in (0, 2) for index, prompt in enumerate(PROMPTS)]


def alone(model: mmlm.MultimodalLM, asked: list) -> list[list[mmlm.GenerationResult]]:
    """What `generate` gives for each request by itself."""
    found = [model.generate(prompt, **options) for prompt, options in asked]
    return [result if isinstance(result, list) else [result] for result in found]


def assert_same(found: list[mmlm.GenerationResult], expected: list[mmlm.GenerationResult]) -> None:
    """The same tokens exactly, their log-probabilities to rounding, and everything else of the results."""
    for own, other in zip(found, expected, strict=True):
        assert (own.token_ids, own.text, own.finish_reason, own.usage) == (
            other.token_ids, other.text, other.finish_reason, other.usage,
        )  # fmt: skip
        assert torch.allclose(torch.tensor(own.log_probs), torch.tensor(other.log_probs), atol=1e-4)


def check(model: mmlm.MultimodalLM, options: EngineOptions, asked: list = ASKED) -> Engine:
    expected = alone(model, asked)
    with Engine(model, options) as engine:
        tickets = [engine.submit(prompt, GenerationOptions(**own)) for prompt, own in asked]
        for ticket, results in zip(tickets, expected, strict=True):
            assert_same(ticket.results(WAIT), results)
        assert engine.running == engine.waiting == 0 and engine.counts.finished == len(asked)
        assert all(slots.count == 0 for slots in engine._slots)
    return engine


@pytest.mark.parametrize("family", families.FAMILIES)
def test_beside_others_a_request_gets_what_it_gets_alone(family):
    """Where a family cannot decode rows of unequal length together, its requests take turns: found by running it."""
    engine = check(parts.build(family), EngineOptions(max_rows=8))
    assert engine._slots.found is not None
    assert (engine._slots.found.longest == 0) == (family in ("gpt_neo_local", "gemma2", "gemma3", "lfm2"))


@pytest.mark.parametrize("visibility", ["group", "all", "prefix"])
@pytest.mark.parametrize("options", [EngineOptions(max_rows=4, prompt_tokens=5), EngineOptions(cache_bytes=0)])
def test_in_every_way_of_joining_media_and_with_prompts_read_in_pieces(visibility, options):
    check(parts.build(visibility=visibility), options)


def test_recorded_steps_and_packed_weights(monkeypatch):
    model = parts.build().pack()
    engine = check(model, EngineOptions(max_rows=6), ASKED * 3)
    if model.language_model.acceleration.records_on:
        assert sum(len(slots._steps) for slots in engine._slots) > 2


@functools.cache
def shared() -> tuple[mmlm.MultimodalLM, list[list[mmlm.GenerationResult]]]:
    model = parts.build(own_end=True)
    return model, alone(model, ASKED)


moments = st.lists(
    st.tuples(st.integers(0, len(ASKED) - 1), st.integers(0, 3), st.booleans()), min_size=1, max_size=12
)  # request, milliseconds before it, whether its caller leaves


@settings(max_examples=25, deadline=None)
@given(moments)
def test_requests_join_and_leave_at_any_moment(arrivals):
    model, expected = shared()
    with Engine(model, EngineOptions(max_rows=5, prompt_tokens=8)) as engine:
        tickets = []
        for index, pause, leaves in arrivals:
            time.sleep(pause / 1000)
            ticket = engine.submit(ASKED[index][0], GenerationOptions(**ASKED[index][1]))
            tickets.append((index, leaves, ticket))
            if leaves:
                ticket.cancel()
        for index, leaves, ticket in tickets:
            try:
                assert_same(ticket.results(WAIT), expected[index])
            except CancelledError:
                assert leaves
        assert all(slots.count == 0 for slots in engine._slots)


def test_tokens_are_heard_as_they_are_written():
    model, _ = shared()
    heard: list[Token | None] = []
    with Engine(model) as engine:
        options = GenerationOptions(max_new_tokens=9, do_sample=True, num_return_sequences=2, seed=1)
        results = engine.submit(PROMPTS[0], options, listener=heard.append).results(WAIT)
    assert heard.pop() is None
    for row, result in enumerate(results):
        own = [token for token in heard if token.row == row]
        assert (tuple(token.id for token in own), tuple(token.log_prob for token in own)) == (
            result.token_ids, result.log_probs,
        )  # fmt: skip


def endless() -> GenerationOptions:
    """A request that goes on for as many positions as there are."""
    return GenerationOptions(max_new_tokens=200)


def test_who_leaves_frees_the_place_and_who_comes_late_is_given_up():
    model = parts.build()
    with Engine(model, EngineOptions(max_rows=1)) as engine:
        first = threading.Event()
        running = engine.submit(PROMPTS[1], endless(), listener=lambda token: first.set())
        late = engine.submit(PROMPTS[0], GenerationOptions(max_new_tokens=2), timeout=0.0)
        waiting = engine.submit(PROMPTS[0], GenerationOptions(max_new_tokens=2))
        assert first.wait(WAIT)
        before = engine.counts.generated_tokens
        running.cancel()
        with pytest.raises(CancelledError):
            running.results(WAIT)
        assert engine.counts.generated_tokens - before <= 200
        with pytest.raises(DeadlineError):
            late.results(WAIT)
        assert_same(waiting.results(WAIT), alone(model, [(PROMPTS[0], dict(max_new_tokens=2))])[0])
        counts = engine.counts
        assert (counts.finished, counts.failed, counts.cancelled) == (1, 1, 1)


def test_a_fault_of_one_request_is_nobody_elses():
    def fails(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("mine alone")

    model, expected = shared()
    broken = [
        ([parts.picture(1), "x"], dict(logits_processor=[fails]), ZeroDivisionError),
        ([mmlm.Image(b"no picture"), "x"], {}, ValueError),
        ([mmlm.Sound(b"no sound"), "x"], {}, ValueError),
        (["x" * 300], {}, ValueError),
        ([], {}, ValueError),
        ([3], {}, TypeError),
    ]
    with Engine(model, EngineOptions(max_rows=4)) as engine:
        good = [engine.submit(prompt, GenerationOptions(**own)) for prompt, own in ASKED]
        bad = [(engine.submit(prompt, GenerationOptions(**own)), kind) for prompt, own, kind in broken]
        for ticket, results in zip(good, expected, strict=True):
            assert_same(ticket.results(WAIT), results)
        for ticket, kind in bad:
            with pytest.raises(kind):
                ticket.results(WAIT)
        assert all(slots.count == 0 for slots in engine._slots)


def test_a_listener_that_fails_gives_its_request_up():
    def fails(token: Token | None) -> None:
        raise RuntimeError("event loop is closed")

    model, expected = shared()
    with Engine(model) as engine:
        deaf = engine.submit(PROMPTS[1], endless(), listener=fails)
        with pytest.raises(CancelledError):
            deaf.results(WAIT)
        assert_same(engine.submit(ASKED[0][0], GenerationOptions(**ASKED[0][1])).results(WAIT), expected[0])


def test_a_fault_of_the_engine_itself_leaves_nobody_waiting(monkeypatch):
    model, expected = shared()
    with Engine(model) as engine:
        step, failed = engine._step, threading.Event()

        def fails_once() -> None:
            if not failed.is_set():
                failed.set()
                raise RuntimeError("a fault")
            step()

        monkeypatch.setattr(engine, "_step", fails_once)
        with pytest.raises(RuntimeError, match="a fault"):
            engine.submit(PROMPTS[1], endless()).results(WAIT)
        assert_same(engine.submit(ASKED[0][0], GenerationOptions(**ASKED[0][1])).results(WAIT), expected[0])


class Panic(BaseException):
    """As an extension raises it that panics."""


def panics(*_: Any, **__: Any) -> Any:
    raise Panic


def test_threads_outlive_what_is_no_ordinary_error(monkeypatch):
    model, expected = shared()
    with Engine(model) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(engine._preparing._media, "learn", panics)
            patch.setattr(preparing, "request", panics)
            with pytest.raises(RuntimeError, match="Panic"):
                engine.submit(PROMPTS[0], endless()).results(WAIT)
        with monkeypatch.context() as patch:
            patch.setattr(engine._prompts, "keep", panics)
            with pytest.raises(RuntimeError, match="Panic"):
                engine.submit(PROMPTS[0], endless()).results(WAIT)
        with monkeypatch.context() as patch:
            patch.setattr(Slots, "step", panics)
            with pytest.raises(RuntimeError, match="Panic"):
                engine.submit(PROMPTS[1], endless()).results(WAIT)
        with monkeypatch.context() as patch:
            patch.setattr(engine, "_step", panics)
            with pytest.raises(RuntimeError, match="Panic"):
                engine.submit(PROMPTS[1], endless()).results(WAIT)
        own = engine.submit(PROMPTS[1], GenerationOptions(max_new_tokens=5, logits_processor=[panics]))
        with pytest.raises(RuntimeError, match="Panic"):
            own.results(WAIT)
        assert_same(engine.submit(ASKED[0][0], GenerationOptions(**ASKED[0][1])).results(WAIT), expected[0])
        assert engine.running == engine.waiting == 0


def test_a_request_is_let_go_of_at_once_when_it_has_ended():
    """Errors hold frames, and these what was asked for: without looking for cycles, nothing of it is left."""

    def fails(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raise KeyError("a fault of its own")

    model, _ = shared()
    asked: list[tuple[list[Any], dict[str, Any]]] = [
        ([], dict(max_new_tokens=2)),
        ([b"no picture"], dict(max_new_tokens=2)),
        ([" much" * 5000], dict(max_new_tokens=2)),
        ([], dict(max_new_tokens=2, logits_processor=[fails])),
    ]
    gc.disable()
    try:
        with Engine(model, EngineOptions(cache_bytes=0)) as engine:
            for index, (rest, options) in enumerate(asked):
                picture = parts.picture(20 + index)
                left = weakref.ref(picture)
                prompt = [picture, "Output:", *(mmlm.Image(one) if isinstance(one, bytes) else one for one in rest)]
                ticket = engine.submit(prompt, GenerationOptions(**options))
                del picture, prompt
                try:
                    ticket.results(WAIT)
                    assert index == 0
                except (ValueError, KeyError):
                    assert index > 0
                until(lambda own=left: own() is None)
    finally:
        gc.enable()


def test_logits_that_are_no_numbers_end_their_request():
    model = parts.build()
    with torch.no_grad():
        model.language_model.added.embedding[1] = torch.nan  # of the picture's token
    with Engine(model) as engine:
        bad, good = (engine.submit(prompt, GenerationOptions(max_new_tokens=5)) for prompt in PROMPTS[:2])
        with pytest.raises(NonFiniteLogitsError):
            bad.results(WAIT)
        assert len(good.results(WAIT)[0].token_ids) == 5


def test_as_many_wait_as_are_asked_to():
    model = parts.build()
    with Engine(model, EngineOptions(max_rows=1, max_waiting=2)) as engine:
        tickets = [engine.submit(PROMPTS[1], endless())]
        with pytest.raises(BusyError):
            for _ in range(4):
                tickets.append(engine.submit(PROMPTS[1], endless()))
        for wrong in (dict(num_beams=2), dict(do_sample=True, num_return_sequences=2)):
            with pytest.raises(ValueError, match="together"):
                engine.submit(PROMPTS[1], GenerationOptions(**wrong))
    for ticket in tickets:
        with pytest.raises(CancelledError, match="closed"):
            ticket.results(WAIT)
    with pytest.raises(CancelledError):
        engine.submit(PROMPTS[1])
    with pytest.raises(ValueError, match="max_rows"):
        EngineOptions(max_rows=0)


def test_where_memory_ends_requests_wait_for_those_that_run(monkeypatch):
    """Room for two rows is there, and for no third beside them."""
    model, _ = shared()
    asked = [(PROMPTS[1], dict(max_new_tokens=30))] * 5
    expected = alone(model, asked)
    of_rows: list[int] = []

    def check_memory(needed: int, rows: int, positions: int, device: torch.device) -> None:
        of_rows.append(rows)
        if rows > 2:
            raise memory.MemoryLimitError("no room")

    monkeypatch.setattr("mmlm.serving.slots.check_memory", check_memory)
    with Engine(model, EngineOptions(max_rows=8)) as engine:
        tickets = [engine.submit(prompt, GenerationOptions(**own)) for prompt, own in asked]
        for ticket, results in zip(tickets, expected, strict=True):
            assert_same(ticket.results(WAIT), results)
    assert 2 in of_rows and max(of_rows) > 2


def test_a_changed_model_ends_what_runs_and_serves_what_comes():
    model = parts.build()
    with Engine(model) as engine:
        first = threading.Event()
        running = engine.submit(PROMPTS[0], endless(), listener=lambda token: first.set())
        assert first.wait(WAIT)
        model.double()
        with pytest.raises(ModelChangedError):
            running.results(WAIT)
        asked = [(PROMPTS[0], dict(max_new_tokens=5))]
        again = engine.submit(PROMPTS[0], GenerationOptions(max_new_tokens=5))
        assert_same(again.results(WAIT), alone(model, asked)[0])


# ---- what came before


def test_what_is_asked_again_is_neither_encoded_nor_read_again(monkeypatch):
    model, _ = shared()
    encoded: list[int] = []
    encode = type(model).encode_media
    monkeypatch.setattr(
        type(model), "encode_media",
        lambda self, items: encoded.extend(1 for item in items if not hasattr(getattr(item, "source", item), "tokens"))
        or encode(self, items),
    )  # fmt: skip
    begun = [*DEMONSTRATION, " eight and many more words of the same kind"]
    asked = [(begun, dict(max_new_tokens=4)), ([*begun, " or so?"], dict(max_new_tokens=4))]
    expected = alone(model, asked)
    encoded.clear()
    with Engine(model) as engine:
        for (prompt, own), results in zip(asked, expected, strict=True):
            assert_same(engine.submit(prompt, GenerationOptions(**own)).results(WAIT), results)
        assert len(encoded) == 2, "each picture once"
        length = expected[0][0].usage.prompt_tokens
        assert engine.counts.known_tokens == length
        assert engine.counts.prompt_tokens == expected[1][0].usage.prompt_tokens
        other = [parts.picture(70), *begun[1:]]  # the same words behind another picture
        results = engine.submit(other, GenerationOptions(max_new_tokens=4)).results(WAIT)
        assert_same(results, alone(model, [(other, dict(max_new_tokens=4))])[0])
        assert engine.counts.known_tokens == length


def test_positions_of_media_are_told_apart_by_their_content():
    keys = keys_of([1, 9, 9, 2, 9, 3], {9}, ["a", "b"], [2, 1])
    assert [keys[0], keys[3], keys[5]] == [1, 2, 3] and min(keys[1], keys[2], keys[4]) < keys[1] + 1 < 1
    assert len(set(keys)) == 6 and keys == keys_of([1, 9, 9, 2, 9, 3], {9}, ["a", "b"], [2, 1])
    assert keys[:4] == keys_of([1, 9, 9, 2, 9, 3], {9}, ["a", "c"], [2, 1])[:4]
    picture = parts.picture(1)
    same, other = (digest_of(mmlm.Image(one)) for one in (picture.copy(), parts.picture(2)))
    assert digest_of(mmlm.Image(picture)) == same != other
    palettes = [picture.convert("P"), picture.convert("P")]
    palettes[1].putpalette(bytes(range(256)) * 3)
    assert palettes[0].tobytes() == palettes[1].tobytes() and digest_of(palettes[0]) != digest_of(palettes[1])
    assert digest_of("text") is digest_of(mmlm.Image("a/path.png")) is None
    heard = parts.sound(0.2).source
    assert digest_of(mmlm.Sound(heard)) == digest_of(heard) != digest_of(parts.sound(0.3).source)


def test_what_was_used_least_is_forgotten_first():
    kept = Recent[str](10)
    for key in "abc":
        kept.put(key, key.upper(), 4)
    assert kept.get("a") is None and kept.get("b") == "B" and kept.size == 8
    kept.put("d", "D", 4)
    assert kept.get("c") is None and kept.get("b") == "B"
    kept.put("large", "", 11)
    assert kept.get("large") is None and sorted(kept.keys()) == ["b", "d"]


def test_media_that_cannot_be_encoded_do_not_keep_others_from_it():
    model, _ = shared()
    known = KnownMedia(1 << 20)
    prompt = [parts.picture(1), mmlm.Image(b"no picture"), "text"]
    known.learn(model, prompt)
    found, digests = known.known(prompt)
    assert hasattr(found[0].source, "tokens") and found[1:] == prompt[1:] and len(set(digests)) == 2


def test_a_row_without_media_sees_none_of_the_row_whose_place_it_takes():
    """Media have memory for the first two rows when the third, a text, moves into the place of the first."""
    model, _ = shared()
    rows = [PROMPTS[0], PROMPTS[4], PROMPTS[1]]
    with torch.no_grad():
        begun = [(decoder, decoder.prefill()) for decoder in (parts.decoder(model, [row], 8) for row in rows)]
        slots = Slots(model.language_model, model.fusion, wide=False, since=model.changes.count)
        for decoder, _ in begun:
            slots.join(decoder)
        assert slots.leave(0) == 2
        tokens = [begun[index][1].argmax(-1) for index in (2, 1)]
        expected = [begun[index][0].step(own) for index, own in zip((2, 1), tokens, strict=True)]
        torch.testing.assert_close(slots.step(torch.cat(tokens)), torch.cat(expected), atol=1e-4, rtol=1e-4)


# ---- pictures and sound


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_pictures_are_drawn_beside_texts(nano, scale):
    def writing() -> Writing:
        return Writing(
            "image", media_spans(nano, "image", 4.0), guidance_scale=scale,
            without=nano.template.writing_prompt("image", ""),
        )  # fmt: skip

    prompts = [nano.template.writing_prompt("image", text) for text in ("a red circle", "a large blue star")]
    options = [GenerationOptions(do_sample=True, temperature=0.5, seed=seed) for seed in (1, 2)]
    expected = [
        request(nano, [prompt], own, writing()).results(own.sampler(nano.device))[0][0].token_ids
        for prompt, own in zip(prompts, options, strict=True)
    ]
    text = ["Output:"], dict(max_new_tokens=20)
    with Engine(nano) as engine:
        drawn = [engine.submit(*both, writing()) for both in zip(prompts, options, strict=True)]
        written = engine.submit(text[0], GenerationOptions(**text[1]))
        assert [ticket.results(WAIT)[0].token_ids for ticket in drawn] == expected
        engine.submit(prompts[0], GenerationOptions(max_new_tokens=2)).results(WAIT)  # the same prompt, read otherwise
        again = engine.submit(prompts[0], options[0], writing())
        assert again.results(WAIT)[0].token_ids == expected[0]
        assert_same(written.results(WAIT), alone(nano, [text])[0])


@pytest.mark.parametrize("family", families.FAMILIES)
def test_texts_and_drawings_share_a_step(family):
    """The adapters of codes act in the rows of drawings alone. Where they cannot tell rows apart, which is found by
    running the model, drawings have steps of their own.
    """
    model = extended(parts.build(family), Codecs(image_codec(), None), lora=LoraConfig(rank=2))
    adapters = model.language_model.lora
    assert adapters is not None
    with torch.no_grad():
        for name, own in adapters.named_parameters():
            if name.endswith("up"):
                own.normal_(generator=torch.Generator().manual_seed(len(name)))
    codes = {"image": model.language_model.vocabulary.spans["image"]}
    drawn, options = [parts.picture(4), "draw:"], GenerationOptions(do_sample=True, seed=3)
    (expected,) = request(model, [drawn], options, Writing("image", codes)).results(options.sampler(model.device))
    texts = [(prompt, OPTIONS[0]) for prompt in PROMPTS[:3]]
    written = alone(model, texts)
    with Engine(model) as engine:
        tickets = [engine.submit(prompt, GenerationOptions(**own)) for prompt, own in texts]
        drawing = engine.submit(drawn, options, Writing("image", codes))
        assert_same(drawing.results(WAIT), expected)
        for ticket, results in zip(tickets, written, strict=True):
            assert_same(ticket.results(WAIT), results)
        found, kinds = engine._slots.found, len(list(engine._slots))
    assert found is not None and found.mixed == (found.longest > 0 and family not in ROWS_IN_ONE)
    assert kinds == (0 if not found.longest else 1 if found.mixed else 2)


def test_what_is_no_number_stays_in_its_own_row():
    """NaN in the keys and values of a drawing, and in the media of a picture, does not reach the texts that follow."""
    model = extended(parts.build(), Codecs(image_codec(), None), lora=LoraConfig(rank=2))
    assert model.language_model.codes is not None
    with torch.no_grad():
        model.language_model.codes.embedding[:] = torch.nan
    codes = {"image": model.language_model.vocabulary.spans["image"]}
    texts = [(prompt, dict(max_new_tokens=6)) for prompt in (["hi"], [parts.picture(1), "Output:"], ["ho"])]
    expected = alone(model, texts)
    with Engine(model, EngineOptions(cache_bytes=0)) as engine:
        beside = [engine.submit(prompt, GenerationOptions(max_new_tokens=40)) for prompt in (["a"], ["b"])]
        with pytest.raises(NonFiniteLogitsError):
            engine.submit(
                ["draw a thing please"], GenerationOptions(do_sample=True, seed=1), Writing("image", codes)
            ).results(WAIT)
        tickets = [engine.submit(prompt, GenerationOptions(**own)) for prompt, own in texts]
        for ticket, results in zip(tickets, expected, strict=True):
            assert_same(ticket.results(WAIT), results)
        for ticket in beside:
            assert ticket.results(WAIT)


def test_the_media_of_a_row_that_has_left_reach_no_other():
    model = parts.build(visibility="all")  # so that two pictures take more places than one
    with torch.no_grad():
        seen, other, text = (parts.decoder(model, [row], 8) for row in (PROMPTS[2], PROMPTS[0], PROMPTS[1]))
        logits = {own: own.prefill() for own in (seen, other, text)}
        for pair in seen.context.keys_values:
            for part in pair:
                part.fill_(torch.nan)
        for later in (other, text):
            slots = Slots(model.language_model, model.fusion, wide=False, since=model.changes.count)
            slots.join(seen)
            slots.leave(0)
            slots.join(later)
            beside = parts.decoder(model, [PROMPTS[4]], 8)
            beside.prefill()
            slots.join(beside)
            tokens = logits[later].argmax(-1)
            found = slots.step(torch.cat([tokens, tokens]))
            torch.testing.assert_close(found[:1], later.step(tokens), atol=1e-4, rtol=1e-4)


def test_the_place_of_a_drawing_that_has_left_costs_the_others_nothing():
    """Packed steps have a row to spare: what a drawing left in it must not count on, beyond the codes of a picture."""
    model = extended(parts.build(), Codecs(image_codec(), None), lora=LoraConfig(rank=2)).pack()
    codes = model.language_model.vocabulary.spans["image"]
    beside, rows = [5] * 5, [["a"]] * 6
    with torch.no_grad():
        slots = Slots(model.language_model, model.fusion, wide=False, since=model.changes.count)
        begun = [
            request(model, [row], GenerationOptions(max_new_tokens=64), Writing("any", {"image": codes})).decoder
            for row in rows
        ]
        for decoder in begun:
            decoder.prefill()
            slots.join(decoder)
        for token in (codes.begin, codes.ids_of(0).start):
            slots.step(torch.tensor([*beside, token]))
        slots.leave(5)
        for _ in range(codes.layout.codes + 2):
            slots.step(torch.tensor(beside))
        alone = begun[0]
        for _ in range(codes.layout.codes + 4):
            alone.step(torch.tensor([5]))
        found, expected = slots.step(torch.tensor(beside)), alone.step(torch.tensor([5]))
    torch.testing.assert_close(found, expected.expand_as(found), atol=1e-4, rtol=1e-4)
