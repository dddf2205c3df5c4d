"""Many generations for one answer: votes, the best of several, and trees of thoughts."""

import math
from dataclasses import replace

import pytest
import torch

import mmlm
from mmlm.generation.result import GenerationResult, Usage
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.thinking import ThinkingMarks
from mmlm.reasoning import best_of, likeness, search
from mmlm.reasoning.search import SearchOptions
from mmlm.tasks.votes import voted
from support import parts
from support.bigrams import END, bigrams, tokenizer


def result(answer: str, *log_probs: float) -> GenerationResult:
    return GenerationResult(answer, (1,) * len(log_probs), log_probs, "stop", Usage(3, 0, 0, len(log_probs)))


def test_the_answer_that_is_given_most_often_wins_however_it_is_spelled():
    attempts = [
        result("Two.", -2.0),
        result("three", -0.1),
        result(" 2", -1.0),
        result("the three", -0.2),
        result("two", -4.0),
    ]
    found = voted(attempts)
    assert found.answer == " 2"  # the likeliest of those that say so
    assert dict(found.votes) == {"2": 3, "3": 2} and list(found.votes) == ["2", "3"]
    assert found.agreement == 0.6 and found.attempts == tuple(attempts)
    assert found.usage.generated_tokens == 5 and found.to_dict()["agreement"] == 0.6


def test_a_tie_goes_to_the_likelier_answer_and_silence_has_no_vote():
    attempts = [result("a b", -3.0, -1.0), result("c", -2.5), result("c", -1.4), result("a b", -1.5)]
    assert voted(attempts).answer == "a b"  # −1.75 a token against −1.95
    silent = [result("", -0.1), result("  ", -0.1), result("c", -5.0)]
    assert voted(silent).answer == "c" and voted(silent).agreement == 1.0
    assert voted(silent[:2]).answer == "" and result("c").agreement is None
    with pytest.raises(ValueError, match="no attempt"):
        voted([])


@pytest.mark.parametrize(
    ("said", "winner", "votes"),
    [
        (["A"] * 7 + ["B"], "A", {"a": 7, "b": 1}),
        (["-5"] * 2 + ["5"] * 2 + ["7"] * 3, "7", {"7": 3, "-5": 2, "5": 2}),
        (["C++", "C++.", "C"], "C++", {"c++": 2, "c": 1}),
        (["x < y", "X  <  Y", "x > y"], "x < y", {"x < y": 2, "x > y": 1}),
        (["a T-shirt", "t shirt", "The hat"], "a T-shirt", {"t shirt": 2, "hat": 1}),
        ([".", "the", "none"], "the", {"the": 1, "0": 1}),
    ],
)
def test_answers_that_mean_something_else_are_not_one_vote(said, winner, votes):
    found = voted([result(text, -1.0) for text in said])
    assert (found.answer, dict(found.votes)) == (winner, votes)


def test_votes_find_what_a_model_says_most_often_and_encode_once(monkeypatch):
    """Of single samples 40% are right, and the likeliest first token of a thought leads to a wrong answer."""
    table = {
        "<think>": {"A": 0.4, "B": 0.3, "C": 0.3}, "A": "D", "B": "E", "C": "F", "D": "</think>", "E": "</think>",
        "F": "</think>", "</think>": {"4": 0.45, "5": 0.3, "6": 0.25}, "4": END, "5": END, "6": END,
    }  # fmt: skip
    model = bigrams(table, tokenizer(("<think>", "</think>")))
    seen = []
    encode = MultimodalNetwork.encode_media
    monkeypatch.setattr(MultimodalNetwork, "encode_media", lambda own, media: seen.extend(media) or encode(own, media))
    found = model.answer(parts.picture(1), "how many?", thinking=9, votes=200, temperature=1.0, seed=3, details=True)
    assert len(seen) == 1 and len(found.attempts) == 200 == sum(found.votes.values())
    assert found.answer == "4" == next(iter(found.votes))
    assert found.agreement == pytest.approx(0.45, abs=0.12) and {a.thinking for a in found.attempts} == {
        "AD",
        "BE",
        "CF",
    }
    assert model.answer(parts.picture(1), "how many?", thinking=9, votes=200, temperature=1.0, seed=3) == "4"
    first, again = (model.ask(transcript="how many?", thinking=9, votes=50, seed=1, details=True) for _ in range(2))
    assert first.token_ids == again.token_ids
    for wrong, message in (
        (dict(votes=0), "at least 1"), (dict(votes=3, num_beams=2), "samples"),
        (dict(votes=3, do_sample=False), "do_sample"), (dict(votes=3, num_return_sequences=2), "num_return"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            model.answer(parts.picture(1), "how many?", **wrong)
    with pytest.raises(TypeError, match="votes must be"):
        model.answer(parts.picture(1), "how many?", votes="many")


def test_the_best_of_several_by_any_score():
    found = [result("a", -1.0, -3.0), result("bb", -1.5), result("cc", -9.0)]
    assert best_of(found).answer == "bb"
    assert best_of(found, lambda one: len(one.answer)).answer == "bb"  # the first of equals
    assert best_of(found, lambda one: math.nan if one.answer == "a" else -one.log_probs[-1]).answer == "cc"
    with pytest.raises(ValueError, match="no result"):
        best_of([])


def test_the_picture_that_clip_finds_most_like_a_text():
    encoder = parts.image_encoder()
    encoder.tokenizer = lambda texts: torch.tensor([[len(text) % 60, *range(1, 8)] for text in texts])
    pictures = [parts.picture(seed) for seed in range(5)]
    found = [replace(result(str(place)), parts=(picture,)) for place, picture in enumerate(pictures)]
    seen = encoder.embed_images(torch.stack([encoder.preprocess(picture) for picture in pictures]))
    similar = torch.nn.functional.cosine_similarity(seen, encoder.embed_texts(["a circle"]))
    assert best_of(found, likeness(encoder, "a circle")).answer == str(int(similar.argmax()))
    with pytest.raises(ValueError, match="picture"):
        likeness(encoder, "a circle")(result("x"))


# Trees

LETTERS = "ABCD"
MARKS = ThinkingMarks("", "=", "")
EVEN = {letter: 1 / len(LETTERS) for letter in LETTERS}
PLANTED = "CABD"


def tree_model() -> mmlm.MultimodalLM:
    """Each step is a letter and a line break, all alike likely; only the answer tells what came last."""
    return bigrams({"!": EVEN, **dict.fromkeys(LETTERS, "\n"), "\n": EVEN, "=": "4", "4": END})


def right_steps(thought: str) -> float:
    """How many steps are those that were planted, from the first on."""
    steps = thought.split()
    return next((n for n, (own, planted) in enumerate(zip(steps, PLANTED)) if own != planted), min(len(steps), 4))


def test_a_tree_finds_the_planted_leaf_with_fewer_tokens_than_whole_thoughts():
    """A whole thought is right once in 256: the tree needs some 4 · 3 · 8 steps of two tokens."""
    model = tree_model()
    options = SearchOptions(breadth=3, branches=8, depth=4, temperature=1.0, seed=0)
    found = search(model, ["go!"], right_steps, options, marks=MARKS)
    assert found.thinking.split() == list(PLANTED) and found.text == "4" and found.finish_reason == "stop"
    assert found.usage.thinking_tokens <= 2 * 3 * 8 * 4
    tried = 0
    for seed in range(3):  # as many tokens, three times over, for thoughts without a tree
        samples = model.generate(
            ["go!"], thinking=8, thinking_marks=MARKS, do_sample=True, num_return_sequences=8 * 3, seed=seed
        )
        tried += sum(sample.usage.thinking_tokens for sample in samples)
        assert not any(sample.thinking.split() == list(PLANTED) for sample in samples)
    assert tried > 3 * found.usage.thinking_tokens


@pytest.mark.parametrize("family", ["llama", "gemma3", "bloom"])
def test_a_tree_reads_its_prompt_once_and_its_log_probabilities_are_those_of_one_pass(family, monkeypatch):
    model = parts.build(family)
    prompt = [parts.picture(1), "Output: a rather long prompt"]
    read = []
    forward = mmlm.generation.decoder.Decoder._forward
    monkeypatch.setattr(
        mmlm.generation.decoder.Decoder, "_forward",
        lambda own, ids, *more: read.append(ids.shape[1]) or forward(own, ids, *more),
    )  # fmt: skip
    marks = ThinkingMarks("{", "}")
    options = SearchOptions(breadth=2, branches=2, depth=3, step_tokens=4, step_end="e", seed=1, max_new_tokens=5)
    found = search(model, prompt, options=options, marks=marks)
    long = len(model.processor.encode(prompt).input_ids)
    whole = [count for count in read if count >= long]
    assert len(whole) == (1 if family != "gemma3" else len([count for count in read if count > 5]))
    (expected,) = model.log_probs([[*prompt, mmlm.prompting.Markup("{")]], [found])
    assert torch.tensor(found.log_probs).sub(expected).abs().max() < 1e-4
    assert found.usage.prompt_tokens == long + 1
    again = search(model, prompt, options=options, marks=marks)
    assert again.token_ids == found.token_ids  # the same seed
    written = model.processor.decode_marked(found.token_ids)
    assert written.count("}") >= 1 and written.partition("}")[0].strip() == found.thinking


def test_a_search_that_makes_no_sense_is_told():
    with pytest.raises(ValueError, match="breadth must be at least 1"):
        SearchOptions(breadth=0)
    with pytest.raises(ValueError, match="step_end"):
        SearchOptions(step_end="")
    with pytest.raises(ValueError, match="knows no marks"):
        search(tree_model(), ["go!"])
