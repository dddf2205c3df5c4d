"""What a generation gives: log-probabilities against uncached passes, reasons, usage, constraints, options."""

import dataclasses
import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mmlm
from mmlm.assembly import Codecs, extended
from mmlm.generation.beams import beam_search
from mmlm.generation.constraints.base import Allowed
from mmlm.generation.loop import decode
from mmlm.generation.nonfinite import NonFiniteLogitsError
from mmlm.generation.options import GenerationKeywords, GenerationOptions
from mmlm.generation.text import PartialText
from mmlm.model.config import LoraConfig
from mmlm.prompting.parts import Codes
from support import families, parts


@torch.no_grad()
def uncached(model, prompt, ids, codes=False):
    """Log-probabilities of ids after a prompt by one pass over all of them, in float64 from the logits on."""
    batch, media = parts.encoded(model, [prompt])
    whole = torch.cat([batch.input_ids, torch.tensor([list(ids)])], dim=1)
    logits = model(type(batch)(whole, torch.ones_like(whole)), media, codes=codes).logits[0].double()
    rows = logits[-len(ids) - 1 : -1].log_softmax(-1)
    return rows[range(len(ids)), list(ids)].tolist()


def close(found, expected):
    assert found == pytest.approx(expected, rel=1e-3, abs=2e-3)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_log_probabilities_are_those_of_one_uncached_pass(family):
    """Greedy and sampled, in a padded batch; and `log_probs` gives the same for these ids."""
    model = parts.shared(family)
    for options in ({}, {"do_sample": True, "temperature": 0.7, "top_k": 20, "seed": 1, "repetition_penalty": 1.3}):
        results = model.generate(parts.prompts(), max_new_tokens=7, **options)
        for prompt, result in zip(parts.prompts(), results, strict=True):
            assert len(result.log_probs) == len(result.token_ids) > 0
            close(result.log_probs, uncached(model, prompt, result.token_ids))
        with torch.no_grad():
            again = model.log_probs(parts.prompts(), results)
        for result, values in zip(results, again, strict=True):
            close(values.tolist(), result.log_probs)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral", "gemma2", "bloom"])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_beams_have_log_probabilities_and_scores(family, length_penalty):
    model = parts.shared(family)
    found = model.generate(
        parts.prompts(), max_new_tokens=6, num_beams=3, num_return_sequences=2, length_penalty=length_penalty
    )
    for prompt, results in zip(parts.prompts(), found, strict=True):
        for result in results:
            close(result.log_probs, uncached(model, prompt, result.token_ids))
        assert results[0].score >= results[1].score
        # Of a beam's score the placeholders are no part, which no text may hold.
        assert results[0].score == pytest.approx(sum(results[0].log_probs) / 6**length_penalty, abs=0.1)


def test_log_probs_of_texts_are_the_loss_of_training():
    model = parts.shared("llama")
    answers = ["one", "a longer answer", "x"]
    examples = [model.processor.encode(prompt, text) for prompt, text in zip(parts.prompts(), answers, strict=True)]
    batch = model.processor.collate(examples)
    with torch.no_grad():
        loss = model(batch, [example.media for example in examples]).loss
        found = model.log_probs(parts.prompts(), answers)
        alone = [model.log_probs([p], [a])[0] for p, a in zip(parts.prompts(), answers, strict=True)]
    assert [len(row) for row in found] == [4, 16, 2]  # a byte each, and the end
    assert -float(torch.cat(found).mean()) == pytest.approx(float(loss), abs=1e-5)
    for together, own in zip(found, alone, strict=True):
        torch.testing.assert_close(together, own, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="3 prompts but 1 answers"):
        model.log_probs(parts.prompts(), ["x"])
    with pytest.raises(ValueError, match="holds no tokens"):
        model.log_probs([["a"]], [()])


def test_log_probs_have_gradients_and_lora_can_be_left_out():
    from support.codec_parts import image_codec

    model = extended(parts.build("llama"), Codecs(image=image_codec()), lora=LoraConfig(rank=2), seed=0)
    with torch.no_grad():
        for adapter in model.language_model.lora.parameters():
            adapter.normal_(std=0.3)
    codes = Codes("image", torch.zeros(1, 2, 2).long())
    own, without = (model.log_probs([["Draw:a"]], [codes], lora=lora)[0] for lora in (None, False))
    assert len(own) == 7 and (own - without).abs().max() > 1e-3  # four codes, their boundaries, the end
    plain = model.log_probs([["Draw:a"]], ["text"])[0]
    adapted = model.log_probs([["Draw:a"]], ["text"], lora=True)[0]
    assert (plain - adapted).abs().max() > 1e-3
    own.sum().backward()
    assert all(float(adapter.grad.abs().sum()) > 0 for adapter in model.language_model.lora.parameters())
    assert model.language_model.codes.head.grad is not None


def test_codes_have_log_probabilities_too():
    from support.codec_parts import audio_codec, image_codec

    model = extended(parts.build("llama"), Codecs(image=image_codec(), audio=audio_codec()), seed=0)
    for mode in ("image", "any"):
        result = model.generate(["Draw:a ring"], generation_mode=mode, max_new_tokens=6, do_sample=True, seed=2)
        close(result.log_probs, uncached(model, ["Draw:a ring"], result.token_ids, codes=True))
        with torch.no_grad():
            (again,) = model.log_probs([["Draw:a ring"]], [result], codes=True)
        close(again.tolist(), result.log_probs)
    assert len(model.draw("a ring", details=True).media) == 1
    spoken = model.speak("seven", max_seconds=0.1, details=True)
    assert spoken.finish_reason == "stop" and isinstance(spoken.media[0], mmlm.Audio)
    assert spoken.to_dict()["media"][0]["sample_rate"] == 8000


def test_usage_and_reasons():
    model = parts.build("llama")
    prompt = [parts.picture(1), "one ", parts.picture(2), "two"]
    result = model.generate(prompt, max_new_tokens=5)
    assert dataclasses.astuple(result.usage) == (9, 2, 2 * parts.RESAMPLER.num_latents, 5, 0, 0)
    assert result.finish_reason == "length" and str(result) == result.text and result.score is None
    assert model.generate(["text"], max_new_tokens=2).usage.media_items == 0
    end = result.token_ids[-1]
    count = result.token_ids.index(end) + 1
    stopped = model.generate(prompt, max_new_tokens=5, stop_token_ids=[end])
    assert stopped.finish_reason == "stop" and stopped.token_ids == result.token_ids[:count]
    assert stopped.text == model.processor.decode(result.token_ids[: count - 1])
    assert stopped.usage.generated_tokens == count
    record = stopped.to_dict()
    assert record["usage"]["prompt_tokens"] == 9 and len(record["log_probs"]) == count


def test_short_verbs_give_texts_and_on_request_results():
    model = parts.shared("llama")
    pictures = [parts.picture(1), parts.picture(2)]
    texts = model.caption(pictures, max_new_tokens=4)
    results = model.caption(pictures, max_new_tokens=4, details=True)
    assert [type(text) for text in texts] == [str, str]
    assert [result.text.strip() for result in results] == texts and results[0].usage.media_items == 1
    one = model.answer(pictures[0], "what?", max_new_tokens=4, details=True)
    assert one.text.strip() == model.answer(pictures[0], "what?", max_new_tokens=4)


def test_a_stream_has_a_result_at_its_end():
    model = parts.shared("llama")
    stream = model.stream(parts.prompts()[0], max_new_tokens=6)
    next(stream)
    with pytest.raises(RuntimeError, match="not finished"):
        _ = stream.result
    for _ in stream:
        pass
    whole = model.generate(parts.prompts()[0], max_new_tokens=6)
    assert stream.result.token_ids == whole.token_ids and stream.result.text == whole.text
    close(stream.result.log_probs, whole.log_probs)


# Constraints


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several sequences of ids, and nothing else."""

    sequences: tuple[tuple[int, ...], ...]
    place: int = 0
    finished: str | None = None
    guided: bool = False

    def allowed(self) -> Allowed:
        return tuple(range(ids[self.place], ids[self.place] + 1) for ids in self.sequences)

    def advance(self, token: int) -> "Choice":
        left = tuple(ids for ids in self.sequences if ids[self.place] == token)
        assert left, "a token that is not allowed"
        done = any(len(ids) == self.place + 1 for ids in left)
        return Choice(left, self.place + 1, "stop" if done else None)


SEQUENCES = ((65, 66, 67), (65, 70), (90, 91, 92, 93))


@torch.no_grad()
def best_choice(model, prompt):
    """The most likely of the sequences, by uncached passes."""
    return max(SEQUENCES, key=lambda ids: sum(uncached(model, prompt, ids)))


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom", "qwen2_moe"])
def test_a_choice_among_sequences_holds_in_every_way_of_decoding(family):
    model = parts.shared(family)
    stops = model.language_model.stop_ids
    for options in (dict(), dict(do_sample=True, temperature=3.0, num_return_sequences=4, seed=0)):
        chosen = GenerationOptions(max_new_tokens=8, **options)
        states = [Choice(SEQUENCES) for _ in range(3 * chosen.num_return_sequences)]
        run = parts.decoder(model, parts.prompts(), 8)
        steps = list(decode(run, chosen, stops, chosen.sampler(run.ids.device), states))
        ids = torch.stack([step.tokens for step in steps], dim=1)
        ended = torch.stack([step.ended for step in steps], dim=1)
        rows = [tuple(row[~over].tolist()) for row, over in zip(ids, ended, strict=True)]
        assert all(row in SEQUENCES for row in rows) and all(state.finished for state in states)
    chosen = GenerationOptions(max_new_tokens=8, num_beams=3, num_return_sequences=2, length_penalty=0.0)
    found = beam_search(parts.decoder(model, parts.prompts(), 8), chosen, stops, [Choice(SEQUENCES)] * 3)
    for prompt, beams in zip(parts.prompts(), found, strict=True):
        assert all(tuple(beam.ids) in SEQUENCES for beam in beams) and beams[0].ids != beams[1].ids
        assert tuple(beams[0].ids) == best_choice(model, prompt), "three beams see all three sequences"


def test_more_beams_than_a_constraint_allows_are_empty():
    model = parts.shared("llama")
    chosen = GenerationOptions(max_new_tokens=4, num_beams=4, num_return_sequences=4)
    run = parts.decoder(model, parts.prompts()[:1], 4)
    ((*beams,),) = beam_search(run, chosen, model.language_model.stop_ids, [Choice(((65, 66),))])
    assert [beam.ids for beam in beams] == [[65, 66], [], [], []]


def test_beams_write_whole_media():
    from support.codec_parts import image_codec

    model = extended(parts.build("llama"), Codecs(image=image_codec()), seed=0)
    results = model.generate(["Draw:a"], generation_mode="image", num_beams=3, num_return_sequences=2)
    assert all(result.finish_reason == "stop" and result.media[0].size == (16, 16) for result in results)
    assert results[0].score > results[1].score


# Logits that are no numbers


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 0}, {"num_beams": 2}])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_end_the_text_with_an_error(options, value):
    model = parts.build("llama")
    calls = []

    def broken(module, args, output):
        calls.append(1)
        if len(calls) > 2:
            output.logits[..., 7] = value
        return output

    model.language_model.model.register_forward_hook(broken)
    with pytest.raises(NonFiniteLogitsError, match=r"generated token 3: .* computes in float32"):
        model.generate(["text"], max_new_tokens=9, **options)
    calls.clear()
    if "num_beams" not in options:
        pieces = model.stream(["text"], max_new_tokens=9, **options)
        with pytest.raises(NonFiniteLogitsError):
            list(pieces)


# Options


@pytest.mark.parametrize(
    "options",
    [
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 6},
        {"bad_words_ids": ((65,), (70, 71))},
        {"no_repeat_ngram_size": 3, "repetition_penalty": 1.2, "min_new_tokens": 3},
    ],
)
@pytest.mark.parametrize("beams", [1, 3])
def test_options_served_by_transformers_processors_are_upstreams(options, beams):
    model = parts.build("gpt2")
    stop = parts.token_ids(model, parts.prompts(), max_new_tokens=8)[0][3]  # a token that would end a text early
    model.language_model.model.generation_config.eos_token_id = [stop]
    rows = parts.prompts()
    ours = parts.token_ids(model, rows, max_new_tokens=10, num_beams=beams, **options)
    upstream = {**options, "bad_words_ids": [list(word) for word in options.get("bad_words_ids", ())] or None}
    assert ours == parts.upstream_ids(model, rows, max_new_tokens=10, num_beams=beams, **upstream)


def test_a_processor_of_ones_own_is_called():
    model = parts.shared("llama")

    def only(ids, scores):
        assert ids.shape[0] == scores.shape[0]
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([66]), 0.0)

    assert model.generate(["x"], max_new_tokens=3, logits_processor=[only]).token_ids == (66, 66, 66)


@pytest.mark.parametrize("beams", [1, 2])
def test_log_probabilities_are_the_models_where_a_processor_writes_into_the_scores(beams):
    def louder(ids, scores):
        scores[:, 66] += 50.0
        return scores

    model = parts.shared("llama")
    result = model.generate(["x"], max_new_tokens=3, num_beams=beams, logits_processor=[louder])
    assert result.token_ids == (66, 66, 66)
    (expected,) = model.log_probs([["x"]], [result])
    assert torch.allclose(torch.tensor(result.log_probs), expected, atol=1e-4)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize(
    ("processor", "error", "message"),
    [
        (lambda ids, scores: scores * float("nan"), ValueError, "holds NaN"),
        (lambda ids, scores: torch.full_like(scores, -torch.inf), ValueError, "allows no token"),
        (lambda ids, scores: None, TypeError, "must return the scores, not NoneType"),
    ],
)
def test_a_processor_whose_scores_choose_nothing_is_named(processor, error, message, beams):
    model = parts.shared("llama")
    with pytest.raises(error, match=message):
        model.generate(["x"], max_new_tokens=3, num_beams=beams, logits_processor=[processor])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_new_tokens": 2.5}, TypeError, "max_new_tokens must be a whole number, not 2.5"),
        ({"num_beams": "3"}, TypeError, "num_beams must be a whole number, not '3'"),
        ({"do_sample": True, "seed": "x"}, TypeError, "seed must be a whole number or None, not 'x'"),
        ({"stop": 5}, TypeError, "stop must be a string or a list of strings, not 5"),
        ({"bad_words_ids": [351]}, TypeError, "bad_words_ids must be a list of lists"),
        ({"logits_processor": max}, TypeError, "logits_processor must be a list of functions"),
        ({"num_beams": 2, "length_penalty": float("nan")}, ValueError, "length_penalty must be in -5..5, not nan"),
        ({"min_new_tokens": 9, "max_new_tokens": 4}, ValueError, "must not exceed max_new_tokens=4, not 9"),
    ],
)
def test_options_of_a_wrong_kind_are_named(options, error, message):
    with pytest.raises(error, match=message):
        GenerationOptions.of(options)


def test_log_probs_of_what_is_no_list_or_no_id():
    model = parts.shared("llama")
    with pytest.raises(TypeError, match="lists, with one entry a row"):
        model.log_probs("hello", "there")
    ids = model.language_model.vocabulary.code_offset + model.language_model.vocabulary.code_rows
    assert len(model.log_probs([["x"]], [[ids - 1]])[0]) == 1
    for token in (ids, -1):
        with pytest.raises(ValueError, match=f"outside the vocabulary of {ids} ids"):
            model.log_probs([["x"]], [[token]])


def test_unknown_options_name_the_nearest():
    model = parts.shared("llama")
    for call, name, near in (
        (lambda: model.generate(["a"], max_tokens=3), "max_tokens", "max_new_tokens"),
        (lambda: model.caption(parts.picture(1), num_beam=3), "num_beam", "num_beams"),
        (lambda: model.answer(parts.picture(1), "q", exampels=()), "exampels", "examples"),
        (lambda: model.ask(parts.sound(0.2), "q", temprature=2.0), "temprature", "temperature"),
        (lambda: GenerationOptions.of({"top_pp": 0.5}), "top_pp", "top_p"),
    ):
        with pytest.raises(TypeError, match=f"unknown option '{name}'; did you mean '{near}'"):
            call()


def test_signatures_show_every_option_with_its_default():
    fields = {field.name: field.default for field in dataclasses.fields(GenerationOptions)}
    assert set(GenerationKeywords.__annotations__) == set(fields)
    for verb in ("generate", "stream", "caption", "answer", "ask"):
        shown = inspect.signature(getattr(mmlm.MultimodalLM, verb)).parameters
        assert {name: shown[name].default for name in fields} == fields
        assert all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in shown.values())


# Text as it comes


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=120))
def test_pieces_of_any_bytes_are_the_text_of_all(raw):
    """Byte tokens of what need not be UTF-8."""
    tokenizer = families.tokenizer()
    names = {token: place for place, token in enumerate(tokenizer.convert_ids_to_tokens(range(256)))}
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    ids = [names[bytes_to_unicode()[byte]] for byte in raw]
    state, pieces = PartialText(tokenizer.decode), []
    for token in ids:
        state, piece = state.push(token)
        pieces.append(piece)
    assert "".join([*pieces, state.rest()]) == tokenizer.decode(ids) == raw.decode(errors="replace")


def test_each_token_costs_the_same_however_long_the_text():
    """Ids that are decoded for a token: no more after a thousand tokens than after a hundred."""
    tokenizer, seen = families.tokenizer(), []

    def decoding(ids):
        seen.append(len(ids))
        return tokenizer.decode(ids)

    text, state = "naïve café, 10 € 🙂 " * 60, PartialText(decoding)
    written = ""
    work = []
    for token in tokenizer(text)["input_ids"]:
        seen.clear()
        state, piece = state.push(token)
        written += piece
        work.append(sum(seen))
    assert written == text and len(work) > 1000
    assert max(work[-500:]) <= max(work[:100]) <= 100
