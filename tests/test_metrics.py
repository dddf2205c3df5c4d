"""Metrics beside upstream's own code, formulas in float64 and tables made by hand."""

import math
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper.normalizers import EnglishTextNormalizer

from mmlm.evaluation.metrics.bleu import bleu
from mmlm.evaluation.metrics.cider import cider
from mmlm.evaluation.metrics.clip_score import clip_score
from mmlm.evaluation.metrics.exact import exact_match
from mmlm.evaluation.metrics.frechet import frechet_distance
from mmlm.evaluation.metrics.measure import mean_of, ratio_of
from mmlm.evaluation.metrics.meteor import has_java, meteor
from mmlm.evaluation.metrics.retrieval import recall_measures, retrieval_ranks
from mmlm.evaluation.metrics.rouge import rouge_l
from mmlm.evaluation.metrics.tokens import paired, tokenize
from mmlm.evaluation.metrics.vqa import normalized, vqa_accuracy, vqa_match
from mmlm.evaluation.metrics.words import character_errors, word_errors

CANDIDATES = [
    "A dog runs on green grass grass.", "a boy plays in the water", "a dog", "", "the girl's dog isn't in a blue dress",
]  # fmt: skip
REFERENCES = [
    ["the dog runs on the grass", "a brown dog is running over green grass"],
    ["a boy plays in the water", "two boys play in a puddle of water"],
    ["a man climbs a steep rock", "climber on a rock wall"],
    ["three birds"],
    ["a girl in a red dress jumps", "the girl 's dog jumps", "girl , jumping"],
]

# --- captions beside pycocoevalcap ------------------------------------------------------------------------------------


def test_caption_metrics_are_those_of_pycocoevalcap():
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    captions = paired(CANDIDATES, REFERENCES)
    wholes, singles = Bleu(4).compute_score(captions.wanted, captions.found, verbose=0)
    for own, whole, single in zip(bleu(captions), wholes, singles, strict=True):
        assert own.value == pytest.approx(whole, rel=1e-12) and own.items == pytest.approx(single, rel=1e-12)
    for own, upstream in ((cider(captions), Cider()), (rouge_l(captions), Rouge())):
        whole, single = upstream.compute_score(captions.wanted, captions.found)
        assert own.value == pytest.approx(whole, rel=1e-12) and own.items == pytest.approx(single, rel=1e-12)


def test_the_bleu_of_a_resample_is_that_of_its_captions():
    from pycocoevalcap.bleu.bleu import Bleu

    drawn = [0, 4, 4, 1, 0]
    captions = paired([CANDIDATES[n] for n in drawn], [REFERENCES[n] for n in drawn])
    expected = Bleu(4).compute_score(captions.wanted, captions.found, verbose=0)[0]
    counts = np.bincount(drawn, minlength=5).astype(float)
    assert [own.of(counts) for own in bleu(paired(CANDIDATES, REFERENCES))] == pytest.approx(expected, rel=1e-12)


@pytest.mark.skipif(not has_java(), reason="METEOR needs Java")
def test_meteor_is_that_of_pycocoevalcap(monkeypatch, tmp_path):
    """Also where it is installed below a path with blanks and umlauts, beside which its own Java finds no data."""
    from pycocoevalcap.meteor import meteor as upstream

    home = tmp_path / "Ünter blanks"
    shutil.copytree(Path(upstream.__file__).parent, home)
    monkeypatch.setattr(upstream, "__file__", str(home / "meteor.py"))
    # What pycocoevalcap 1.2's Meteor().compute_score gives, whose Java takes ten seconds to start.
    whole, single = 0.34728699359146614, [0.37464287217437303, 1.0, 0.040201005025125636, 0.0, 0.4507888783726984]
    own = meteor(paired(CANDIDATES, REFERENCES))
    assert own.value == pytest.approx(whole, abs=1e-12) and own.items == pytest.approx(single, abs=1e-12)


@pytest.mark.skipif(not has_java(), reason="the Penn Treebank tokeniser needs Java")
def test_words_are_those_of_the_penn_treebank_tokeniser():
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    captions = [
        "A dog runs .", 'Two boys , one with a "yellow" ball ; play !', "The man's black-and-white T-shirt isn't his.",
        "A woman 's hat and the dog 's ball", "they 're here , aren't they ?", "3.5 m and 1,000 bricks", "it's high...",
        "We 've seen 2 dogs - one brown",
    ]  # fmt: skip
    upstream = PTBTokenizer().tokenize({n: [{"caption": caption}] for n, caption in enumerate(captions)})
    assert [" ".join(tokenize(caption)) for caption in captions] == [upstream[n][0] for n in range(len(captions))]


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("The Red  Ball.", "red ball"), ("two", "2"), ("none", "0"), ("dont know", "don't know"), ("3.5 m", "3.5 m"),
        ("1,000", "1000"), ("black/white", "black white"), ("black / white", "black white"), ("yes!", "yes"),
        ("left-hand", "left hand"), ("a, b", "b"), ("couldn'tve", "couldn't've"), ("a\nb\tc", "b c"), ("", ""),
        ("what?no", "what no"), ("somebody'd", "somebodyd"), ("o'clock", "o'clock"), ("mr. x", "mr x"),
    ],
)  # fmt: skip
def test_answers_are_normalized_as_by_vqav2(answer, plain):
    assert normalized(answer) == plain


def test_vqa_accuracy_by_a_table():
    # n of ten people gave the answer: with one left out, n - 1 of nine remain n times, and n of nine 10 - n times.
    for people, expected in ((0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)):
        by_hand = (people * min(1, (people - 1) / 3) + (10 - people) * min(1, people / 3)) / 10
        assert by_hand == pytest.approx(expected)
        said = ["The cat."] * people + [f"thing {n}" for n in range(10 - people)]
        assert vqa_accuracy(["a cat"], [said]).value == pytest.approx(expected)
    with pytest.raises(ValueError, match="several people"):
        vqa_accuracy(["a"], [["a"]])
    assert vqa_match(["Two", "x"], [["1", "2"], ["y"]]).value == 0.5
    assert exact_match(["A  cat.", "x"], [["the cat", "a cat"], ["y"]]).value == 0.5


# --- transcripts ------------------------------------------------------------------------------------------------------


def distance(a: list, b: list) -> int:
    """Levenshtein's, by its recurrence."""
    rows = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, rows[0] = rows[0], i
        for j, y in enumerate(b, 1):
            before, rows[j] = rows[j], min(rows[j] + 1, rows[j - 1] + 1, before + (x != y))
    return rows[-1]


def test_error_rates_beside_the_recurrence():
    draw = random.Random(0)
    texts = [" ".join(draw.choices("ab abc it's Mr. colour 7 seven".split(), k=draw.randint(0, 6))) for _ in range(60)]
    said, expected = texts[:30], [*texts[30:59], "one word"]
    normalise = EnglishTextNormalizer()
    pairs = [(normalise(a), normalise(b)) for a, b in zip(said, expected, strict=True)]
    for own, units in ((word_errors, str.split), (character_errors, lambda text: list(" ".join(text.split())))):
        found, wanted = own(said, expected), [(units(a), units(b)) for a, b in pairs]
        errors = [distance(a, b) for a, b in wanted]
        assert found.value == pytest.approx(sum(errors) / sum(len(b) for _, b in wanted))
        for item, error, (_, b) in zip(found.items, errors, wanted, strict=True):
            assert item == (error / len(b) if b else float(error > 0))
        assert found.lower_is_better


def test_transcripts_of_other_languages_lose_case_and_punctuation_alone():
    assert word_errors(["Die Farbe, sieben!"], ["die farbe sieben"], "de").value == 0
    assert word_errors(["colour"], ["color"], "de").value == 1
    assert word_errors(["colour"], ["color"]).value == 0


# --- embeddings -------------------------------------------------------------------------------------------------------


def test_recall_and_ranks_by_hand():
    pictures = torch.eye(3)
    texts = torch.tensor([[1.0, 0, 0], [0, 0.9, 1.0], [0, 0.8, 0], [0, 0.1, 0.5]])  # of pictures 0, 1, 1, 2
    owner = [0, 1, 1, 2]
    image_rank, text_rank = retrieval_ranks(pictures, texts, owner)
    assert image_rank.tolist() == [0, 0, 1] and text_rank.tolist() == [0, 1, 0, 0]
    scores = {own.name: own.value for own in recall_measures(image_rank, text_rank, owner)}
    assert scores["picture to text MRR"] == pytest.approx(2.5 / 3)
    assert scores["picture to text R@1"] == pytest.approx(2 / 3) and scores["picture to text R@5"] == 1
    assert scores["text to picture R@1"] == pytest.approx(3 / 4)


def test_clip_score_by_hand():
    images = torch.tensor([[1.0, 0], [1.0, 0]])
    texts = torch.tensor([[0.6, 0.8], [-1.0, 0]])
    assert clip_score(images, texts).items == pytest.approx([1.5, 0.0])


@pytest.mark.parametrize("count", [7, 60])
def test_fid_beside_the_formula_with_eigenvalues(count):
    draw = np.random.default_rng(count)
    real, made = draw.normal(size=(50, 12)), draw.normal(0.3, 1.5, size=(count, 12))
    first, second = (np.cov(own, rowvar=False) for own in (real, made))
    roots = np.sqrt(np.linalg.eigvals(first @ second).astype(complex)).sum().real
    expected = ((real.mean(0) - made.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * roots
    own = frechet_distance(torch.from_numpy(real), torch.from_numpy(made))
    assert own.value == pytest.approx(expected, rel=1e-6)
    drawn = draw.integers(count, size=count)
    resample = frechet_distance(torch.from_numpy(real), torch.from_numpy(made[drawn]))
    assert own.of(np.bincount(drawn, minlength=count).astype(float)) == pytest.approx(resample.value, rel=1e-6)


def test_fid_by_hand():
    # Of one width: means 0 and 3, variances 4 and 1: 9 + 4 + 1 - 2 · 2.
    real, made = (torch.tensor([[-x], [x]]) / math.sqrt(2) for x in (2.0, 1.0))
    assert frechet_distance(real, made + 3).value == pytest.approx(10)
    assert frechet_distance(real, real).value == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="one width"):
        frechet_distance(real, torch.ones(2, 2))


# --- intervals --------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(1, 2, 400)
    error = 1.96 * values.std() / 20
    measure = mean_of("x", values)
    assert measure.interval() == pytest.approx((values.mean() - error, values.mean() + error), abs=0.03)
    assert measure.interval(seed=3) == measure.interval(seed=3) != measure.interval(seed=4)


def test_items_of_one_unit_are_drawn_together():
    values = np.random.default_rng(0).normal(size=100)
    repeated = mean_of("x", np.repeat(values, 5))
    units = np.repeat(np.arange(100), 5).tolist()
    assert repeated.interval(units) == pytest.approx(mean_of("x", values).interval())
    low, high = repeated.interval()
    wide = repeated.interval(units)
    assert high - low < 0.6 * (wide[1] - wide[0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12), st.integers(0, 5))
def test_a_ratio_is_that_of_sums_and_lies_in_its_interval_if_all_are_equal(pairs, seed):
    parts, wholes = zip(*pairs, strict=True)
    measure = ratio_of("x", parts, wholes)
    assert math.isnan(measure.value) if not sum(wholes) else measure.value == pytest.approx(sum(parts) / sum(wholes))
    same = ratio_of("x", parts[:1] * 3, (wholes[0] + 1,) * 3)
    assert same.interval(seed=seed) == pytest.approx((parts[0] / (wholes[0] + 1),) * 2)
