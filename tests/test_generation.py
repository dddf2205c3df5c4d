"""Decoding: sampling against upstream processors and frequencies, stops, streams, the cache, options."""

import functools

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.generation import decoder
from mmlm.generation.beams import beam_search
from mmlm.generation.cache import PreallocatedLayer, preallocated_cache
from mmlm.generation.decoder import Decoder
from mmlm.generation.loop import decode
from mmlm.generation.options import GenerationOptions
from mmlm.generation.sampler import never_written
from mmlm.model.language_model import LanguageModel
from mmlm.prompting.parts import END_OF_CHUNK
from support import families, parts
from support.families import sentencepiece_bpe
from support.parts import likely_end
from support.watch import Watch

CHI_SQUARE_LIMIT = 3.0  # times the degrees of freedom: far out in the tail for 20 of them and more


class Script:
    """Puts the wanted id on top of the logits: the first after a prompt (more than one token), then one a step."""

    def __init__(self, ids: list[int]):
        self.ids, self.place = ids, 0

    def __call__(self, module, args, output):
        wanted = self.ids[self.place] if self.place < len(self.ids) else families.VOCAB
        self.place += 1
        output.logits.fill_(-5.0)
        output.logits[:, -1, wanted] = 5.0
        return output


@functools.cache
def speaker() -> tuple[MultimodalLM, list]:
    return parts.build("llama"), []


def says(text: str | bytes | list[int]) -> MultimodalLM:
    """A model that from now on writes these characters, bytes or ids, one token a byte, whatever it is told."""
    model, hooks = speaker()
    ids = text if isinstance(text, list) else spelled(model, text)
    while hooks:
        hooks.pop().remove()
    hooks.append(model.language_model.model.register_forward_hook(Script(ids)))
    return model


def spelled(model: MultimodalLM, text: str | bytes) -> list[int]:
    """Ids of bytes, which need not be whole characters."""
    names = bytes_to_unicode()
    return model.processor.tokenizer.convert_tokens_to_ids(
        [names[byte] for byte in (text.encode() if isinstance(text, str) else text)]
    )


# Options


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(max_new_tokens=0), "max_new_tokens must be in 1"),
        (dict(num_beams=0), "num_beams must be in 1"),
        (dict(num_return_sequences=0), "num_return_sequences must be in 1"),
        (dict(do_sample=True, temperature=0.0), "temperature must be in 1e-6.*top_k=1"),
        (dict(repetition_penalty=0.0), "repetition_penalty must be in 1e-6"),
        (dict(do_sample=True, top_k=0), "top_k must be in 1"),
        (dict(do_sample=True, top_p=0.0), r"top_p must be in \(0, 1\]"),
        (dict(do_sample=True, top_p=1.1), r"top_p must be in \(0, 1\]"),
        (dict(temperature=0.5), "pass do_sample=True"),
        (dict(top_k=5), "pass do_sample=True"),
        (dict(top_p=0.5), "pass do_sample=True"),
        (dict(do_sample=True, num_beams=2), "beams or sampling"),
        (dict(num_return_sequences=2), "needs do_sample=True or as many beams"),
        (dict(num_beams=2, num_return_sequences=3), "num_beams is 2"),
        (dict(stop=""), "stop must not hold an empty string"),
        (dict(stop=("a", "")), "stop must not hold an empty string"),
    ],
)
def test_options_that_make_no_sense_are_clear_errors(options, message):
    with pytest.raises(ValueError, match=message):
        GenerationOptions(**options)
    with pytest.raises(ValueError, match=message):
        parts.texts(parts.shared("llama"), [parts.picture(0), "a"], **options)


def test_an_unknown_option_is_an_error():
    with pytest.raises(TypeError, match="unknown option 'max_length'; did you mean"):
        parts.texts(parts.shared("llama"), ["a"], max_length=3)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mpt"])
def test_more_tokens_than_positions_are_an_error_before_anything_is_encoded(family, monkeypatch):
    model = parts.build(family)

    def never(*args):
        raise AssertionError("nothing may be encoded")

    monkeypatch.setattr(model.encoders["image"], "encode", never)
    monkeypatch.setattr(model.encoders["image"], "preprocess", never)
    with pytest.raises(ValueError, match="256 positions"):
        parts.texts(model, [parts.picture(0), "abc"], max_new_tokens=253)
    with pytest.raises(ValueError, match="256 positions"):
        model.stream([parts.picture(0), "abc"], max_new_tokens=253)  # at the call, not at the first piece
    with pytest.raises(ValueError, match="positions"):
        parts.texts(model, [parts.picture(0), "a" * 300], max_new_tokens=1)
    model.language_model.check_length(256)


# Sampling


def test_the_same_seed_gives_the_same_text_and_another_another():
    model = parts.shared("llama")
    options = dict(max_new_tokens=12, do_sample=True)
    texts = [parts.texts(model, parts.prompts(), seed=seed, **options) for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]
    fresh = [parts.texts(model, parts.prompts(), **options) for _ in range(2)]
    assert fresh[0] != fresh[1]
    state = torch.get_rng_state()
    parts.texts(model, parts.prompts(), seed=1, **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert "".join(model.stream(parts.prompts()[0], seed=3, **options)) == parts.texts(
        model, parts.prompts()[0], seed=3, **options
    )


@pytest.mark.parametrize(
    "options, upstream",
    [
        (dict(), []),
        (dict(temperature=0.3), [TemperatureLogitsWarper(0.3)]),
        (dict(top_k=4), [TopKLogitsWarper(4)]),
        (dict(top_p=0.4), [TopPLogitsWarper(0.4)]),
        (dict(repetition_penalty=3.0), [RepetitionPenaltyLogitsProcessor(3.0)]),
        (
            dict(repetition_penalty=1.5, temperature=1.7, top_k=9, top_p=0.8),
            [
                RepetitionPenaltyLogitsProcessor(1.5),
                TemperatureLogitsWarper(1.7),
                TopKLogitsWarper(9),
                TopPLogitsWarper(0.8),
            ],
        ),
    ],
)
def test_sampled_frequencies_are_those_of_upstreams_distribution(options, upstream):
    model = parts.shared("llama")
    rows, samples = [[parts.picture(1), "Output:"]], 4000
    run = parts.decoder(model, rows, 1)
    chosen = GenerationOptions(max_new_tokens=1, do_sample=True, num_return_sequences=samples, seed=11, **options)
    drawn = next(decode(run, chosen, model.language_model.stop_ids, chosen.sampler(model.device))).tokens
    plain = parts.decoder(model, rows, 1)
    scores = plain.prefill().detach()
    scores[:, never_written(plain.host.vocabulary)] = -torch.inf
    for processor in upstream:
        scores = processor(run.ids[:1, : run.length], scores)
    expected = scores.softmax(-1)[0].double() * samples
    counts = torch.bincount(drawn, minlength=len(expected)).double()
    assert counts[expected == 0].sum() == 0, "what upstream rules out is never drawn"
    rare = expected < 5
    observed = torch.cat([counts[~rare], counts[rare].sum().view(1)])
    wanted = torch.cat([expected[~rare], expected[rare].sum().clamp(min=1e-9).view(1)])
    used = wanted > 1
    statistic = ((observed - wanted)[used] ** 2 / wanted[used]).sum().item()
    freedom = max(int(used.sum()) - 1, 1)
    assert statistic < CHI_SQUARE_LIMIT * freedom + 10


def test_greedy_repetition_penalty_is_upstreams():
    model = parts.shared("gpt2")
    ours = parts.token_ids(model, parts.prompts(), max_new_tokens=10, repetition_penalty=1.8)
    assert ours == parts.upstream_ids(model, parts.prompts(), max_new_tokens=10, repetition_penalty=1.8)
    ours = parts.token_ids(model, parts.prompts(), max_new_tokens=8, num_beams=3, repetition_penalty=1.8)
    assert ours == parts.upstream_ids(model, parts.prompts(), max_new_tokens=8, num_beams=3, repetition_penalty=1.8)


def test_placeholders_are_never_written():
    model = parts.build("llama")
    with torch.no_grad():
        model.language_model.added.head[1:] = 1e3 * model.language_model.model.get_output_embeddings().weight[65]
        model.language_model.added.head[2] *= -1
    for options in ({}, {"num_beams": 3}, {"do_sample": True, "temperature": 5.0, "seed": 0}):
        for ids in parts.token_ids(model, parts.prompts(), max_new_tokens=10, **options):
            assert all(token <= families.VOCAB for token in ids)


# Stops


def test_the_script_writes_what_it_is_told():
    assert parts.texts(says("hello wörld"), ["x"], max_new_tokens=40) == "hello wörld"


@pytest.mark.parametrize("stop_id", [families.VOCAB, 256, 12])
def test_every_stop_token_ends_a_text(stop_id):
    model = parts.build("llama")
    model.language_model.model.register_forward_hook(Script([70, 71, stop_id, 72, 73]))
    model.language_model.model.generation_config.eos_token_id = [256, 12]
    alone = model.processor.decode([70, 71])
    assert parts.texts(model, ["x"], max_new_tokens=20) == alone


@pytest.mark.parametrize(
    "text, stop, expected",
    [
        ("one two three", " two", "one"),
        ("one two three", ("three", "two"), "one "),
        ("aab aaab end", "aaab", "aab "),
        ("it costs 5€ or 6€", "€", "it costs 5"),
        ("it costs b€ or 6€", "b€", "it costs "),  # a stop that ends within a character's bytes
        ("naïve 🙂 text", "🙂", "naïve "),
        ("no stop in here", "zzz", "no stop in here"),
        ("ends with a half sto", "stop", "ends with a half sto"),
        ("xstop", "xstop", ""),
    ],
)
def test_stop_strings_end_a_text_across_tokens(text, stop, expected):
    assert parts.texts(says(text), ["x"], max_new_tokens=60, stop=stop) == expected
    pieces = list(says(text).stream(["x"], max_new_tokens=60, stop=stop))
    assert "".join(pieces) == expected
    assert all(pieces), "no empty pieces"


def test_a_stop_string_ends_the_work_too():
    model = says("one. two. three. four. five.")
    passes = []
    hook = model.language_model.model.register_forward_hook(lambda *args: passes.append(1))
    assert parts.texts(model, ["x"], max_new_tokens=28, stop=".") == "one"
    hook.remove()
    assert len(passes) == 4


def test_beams_keep_to_stop_strings():
    model = parts.shared("llama")
    whole = parts.texts(model, parts.prompts(), max_new_tokens=10, num_beams=3)
    letter = next(c for c in whole[0][2:] if c.isascii())
    for row in parts.texts(model, parts.prompts(), max_new_tokens=10, num_beams=3, num_return_sequences=3, stop=letter):
        assert len(row) == 3
        assert all(letter not in text for text in row)


def test_rows_that_ended_do_not_change_the_others():
    model = likely_end()
    rows = [[parts.picture(seed), f"{seed}:"] for seed in range(6)]
    together = parts.token_ids(model, rows, max_new_tokens=24)
    lengths = {len(ids) for ids in together}
    assert len(lengths) > 1, "rows must end at different times for this to test anything"
    assert together == [parts.token_ids(model, [row], max_new_tokens=24)[0] for row in rows]


# Streams


STOPS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(text=st.text(min_size=1, max_size=8), stop=st.lists(STOPS, max_size=2).map(tuple))
def test_the_pieces_of_a_stream_make_what_generate_gives(text, stop):
    whole = parts.texts(says(text), ["x"], max_new_tokens=40, stop=stop)
    assert "".join(says(text).stream(["x"], max_new_tokens=40, stop=stop)) == whole
    if not any(string in text for string in stop):
        assert whole == text


@settings(max_examples=25, deadline=None)
@given(raw=st.binary(min_size=1, max_size=10))
def test_bytes_that_are_no_text_stream_as_they_are_generated(raw):
    whole = parts.texts(says(raw), ["x"], max_new_tokens=40)
    assert "".join(says(raw).stream(["x"], max_new_tokens=40)) == whole == raw.decode(errors="replace")


def test_a_character_comes_whole_however_many_tokens_it_takes():
    pieces = list(says("a🙂é€").stream(["x"], max_new_tokens=20))
    assert pieces == ["a", "🙂", "é", "€"]


def test_a_sentencepiece_stream_keeps_its_spaces():
    tokenizer = sentencepiece_bpe()
    tokenizer.eos_token = None
    ids = (
        tokenizer("b /", add_special_tokens=False)["input_ids"]
        + tokenizer("é🙂", add_special_tokens=False)["input_ids"]
    )
    ids = [token for token in ids if token < families.VOCAB]
    model = parts.build("llama", tokenizer=tokenizer)
    texts = []
    whole, streamed = functools.partial(parts.texts, model), lambda *args, **more: "".join(model.stream(*args, **more))
    for run in (whole, streamed):
        hook = model.language_model.model.register_forward_hook(Script(ids))
        texts.append(run(["/"], max_new_tokens=40))
        hook.remove()
    assert texts == [tokenizer.decode(ids)] * 2
    assert " " in texts[0] and "é🙂" in texts[0]


def test_a_stream_is_one_text():
    model = parts.shared("llama")
    for options, message in (
        ({"num_beams": 2}, "one text"),
        ({"do_sample": True, "num_return_sequences": 2}, "one text"),
    ):
        with pytest.raises(ValueError, match=message):
            next(model.stream(["a"], **options))
    with pytest.raises(ValueError, match="one prompt"):
        next(model.stream([["a"], ["b"]]))


# Prompts and batches


@pytest.mark.parametrize("beams", [1, 2])
def test_tokens_of_the_callers_choice_end_a_text_and_are_left_out(beams):
    options = dict(max_new_tokens=20, stop_token_ids=tuple(spelled(says(""), ",")))
    assert parts.texts(says("one, two, three"), ["x"], num_beams=beams, **options) == "one"
    assert "".join(says("one, two, three").stream(["x"], **options)) == "one"


def test_a_language_model_that_remembers_nothing_is_refused():
    """openai-gpt takes no past_key_values: fed one token a step, it would go on from that token alone."""
    config = transformers.OpenAIGPTConfig(vocab_size=272, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    host = LanguageModel(transformers.OpenAIGPTLMHeadModel(config), families.tokenizer())
    model = MultimodalLM(host, parts.image_encoder(), parts.RESAMPLER, parts.fusion())
    with pytest.raises(ValueError, match="OpenAIGPTLMHeadModel keeps no keys and values"):
        parts.texts(model, ["x"], max_new_tokens=3)


def test_every_batch_of_a_request_draws_anew():
    model = parts.shared("llama")
    options = dict(max_new_tokens=8, do_sample=True, seed=3)
    texts = parts.texts(model, [["x"]] * 6, batch_size=2, **options)
    assert len(set(texts)) == 6
    assert texts == parts.texts(model, [["x"]] * 6, batch_size=2, **options)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_holds_something(batch_size):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        parts.texts(parts.shared("llama"), [["a"], ["b"]], batch_size=batch_size)


def test_lists_in_lists_out():
    model = parts.shared("llama")
    pictures = [parts.picture(seed) for seed in range(3)]
    captions = model.caption(pictures, max_new_tokens=5)
    assert captions == [model.caption(picture, max_new_tokens=5) for picture in pictures]
    answers = model.answer(pictures, ["what?", "who?", "is it?"], max_new_tokens=5)
    assert answers == [
        model.answer(picture, question, max_new_tokens=5)
        for picture, question in zip(pictures, ["what?", "who?", "is it?"], strict=True)
    ]
    assert model.answer(pictures, "what?", max_new_tokens=5)[0] == answers[0]
    assert model.answer(pictures[0], ["what?", "who?"], max_new_tokens=5)[0] == answers[0]
    assert model.caption([], max_new_tokens=5) == []
    assert model.caption(pictures[:1], max_new_tokens=5) == captions[:1]
    with pytest.raises(ValueError, match="3 pictures but 2 questions"):
        model.answer(pictures, ["a", "b"])
    with pytest.raises(TypeError, match="mixed"):
        parts.texts(model, [["a"], "b"])


def test_batches_of_any_size_give_the_same():
    model = parts.shared("llama")
    rows = parts.prompts() * 2
    whole = parts.texts(model, rows, max_new_tokens=5)
    assert [parts.texts(model, rows, max_new_tokens=5, batch_size=size) for size in (1, 2, 4)] == [whole] * 3


def test_demonstrations_make_the_prompt_that_one_would_write():
    model = parts.shared("llama", visibility="latest")
    examples = [(parts.picture(1), "one thing"), (parts.picture(2), "two things")]
    by_hand = [
        parts.picture(1), "Output:", "one thing", END_OF_CHUNK, parts.picture(2), "Output:", "two things", END_OF_CHUNK,
        parts.picture(3), "Output:",
    ]  # fmt: skip
    options = dict(max_new_tokens=6)
    expected = parts.texts(model, by_hand, **options).strip()
    assert model.caption(parts.picture(3), examples=examples, **options) == expected


# The cache


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "lfm2", "falcon"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_the_preallocated_cache_is_transformers_token_for_token(family, options, monkeypatch):
    model = parts.shared(family)
    ours = parts.token_ids(model, parts.prompts(), max_new_tokens=10, **options)
    monkeypatch.setattr(decoder, "preallocated_cache", lambda config, capacity: DynamicCache(config=config))
    assert parts.token_ids(model, parts.prompts(), max_new_tokens=10, **options) == ours


@pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral", "bloom"])
@torch.no_grad()
def test_the_cache_does_not_move(family):
    model = parts.shared(family)
    run = parts.decoder(model, parts.prompts(), 6)
    tokens = run.prefill().argmax(-1)
    layers = run.cache.layers
    assert len(layers) == families.LAYERS and all(type(layer) is PreallocatedLayer for layer in layers)

    def places() -> list[int]:
        return [part.data_ptr() for layer in layers for part in (layer.keys, layer.values)]

    start, length = places(), run.length
    for step in range(6):
        tokens = run.step(tokens).argmax(-1)
        run.reorder(torch.tensor([0, 2, 1]))
        assert places() == start
        assert run.cache.get_seq_length() == length + step + 1
    assert all(layer._keys.shape[-2] == length + 6 for layer in layers)
    with pytest.raises(RuntimeError, match=f"{length + 6} positions"):
        run.cache.update(
            torch.zeros(3, layers[0].keys.shape[1], 1, 8), torch.zeros(3, layers[0].keys.shape[1], 1, 8), 0
        )


def test_reordering_a_cache_is_reordering_its_rows():
    draw = torch.Generator().manual_seed(0)
    layer, upstream = PreallocatedLayer(9), DynamicCache()
    states = [torch.randn(3, 2, length, 4, generator=draw) for length in (4, 1, 1)]
    for order in ([2, 0, 0], [0, 0, 1, 1, 2, 2]):
        for part in states:
            part = part[: len(upstream.layers[0].keys)] if upstream.layers else part
            if part.shape[0] == 3:
                keys, values = layer.update(part, part + 1)
                expected = upstream.update(part, part + 1, 0)
                assert torch.equal(keys, expected[0]) and torch.equal(values, expected[1])
        layer.reorder_cache(torch.tensor(order))
        upstream.reorder_cache(torch.tensor(order))
        assert torch.equal(layer.keys, upstream.layers[0].keys) and torch.equal(layer.values, upstream.layers[0].values)
        states = [torch.randn(3, 2, 1, 4, generator=draw)]
    assert layer.keys.shape[0] == 6


def test_special_layers_stay_transformers_own():
    config = families.language_model("gemma2").config
    kinds = [type(layer).__name__ for layer in preallocated_cache(config, 20).layers]
    upstream = [type(layer).__name__ for layer in DynamicCache(config=config).layers]
    assert kinds == ["PreallocatedLayer" if name == "DynamicLayer" else name for name in upstream]
    assert "DynamicSlidingWindowLayer" in kinds


@torch.no_grad()
def test_the_decoder_asks_the_host_for_nothing_between_steps():
    """Greedy decoding reads one value a step: whether all rows have ended."""
    model = parts.shared("llama")
    run: Decoder = parts.decoder(model, parts.prompts()[:1], 8)
    with Watch() as watch:
        steps = list(decode(run, GenerationOptions(max_new_tokens=8), model.language_model.stop_ids))
    prefill = parts.decoder(model, parts.prompts()[:1], 8)
    with Watch() as before:
        prefill.prefill()
    assert len(steps) == 8
    assert watch.reads - before.reads <= 7


def test_beam_search_gives_the_best_first_and_as_many_as_asked():
    model = parts.shared("llama")
    run = parts.decoder(model, parts.prompts(), 6)
    found = beam_search(
        run, GenerationOptions(max_new_tokens=6, num_beams=4, num_return_sequences=3), model.language_model.stop_ids
    )
    assert [len(row) for row in found] == [3, 3, 3]
    for row, prompt in zip(found, parts.prompts(), strict=True):
        scores = [log_probability(model, prompt, hypothesis.ids) for hypothesis in row]
        assert scores == sorted(scores, reverse=True)
        assert [hypothesis.score for hypothesis in row] == pytest.approx(scores, abs=1e-4)


@torch.no_grad()
def log_probability(model: MultimodalLM, prompt: list, new: list[int]) -> float:
    """Mean log-probability of new tokens by one uncached pass."""
    batch, media = parts.encoded(model, [prompt])
    new = parts.until_stop(new, model.language_model.stop_ids)
    ids = torch.cat([batch.input_ids, torch.tensor([new])], dim=1)
    logits = model(type(batch)(ids, torch.ones_like(ids)), media).logits[0, -len(new) - 1 : -1, : families.VOCAB + 1]
    return float(logits.log_softmax(-1)[range(len(new)), new].mean())
