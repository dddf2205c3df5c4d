"""The measures, against numbers worked out by hand and from the papers' formulas."""

import dataclasses
import io
import math
import sys
from collections import Counter
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image as PILImage

from encoders.base import Features, FrozenEncoder
from encoders.media.image import load_image
from mmlm.assembly.assemble import assemble
from mmlm.data import BadRecord, BadRecordsError, FileSlice, Record, RecordSet
from mmlm.evaluation import Report, evaluate, medium_gap, retrieval_recall, score_captions, word_error_rate
from mmlm.evaluation.gap import bootstrap_interval
from mmlm.evaluation.medium import normalize_answer
from mmlm.evaluation.metrics.tokens import tokenize
from mmlm.evaluation.trials import Trials, derangement, encoded
from mmlm.generation.result import GenerationResult, Usage
from mmlm.model.config import ResamplerConfig
from mmlm.prompting.parts import Image
from mmlm.prompting.processor import Processor
from mmlm.prompting.templates import PromptTemplate
from mmlm.prompting.vocabulary import ADDED_TOKENS_WITH_AUDIO, MediaVocabulary
from support import parts
from support.families import VOCAB, language_model, tokenizer

# --- captions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A dog runs .", "a dog runs"),
        ('Two boys , one with a "yellow" ball ; play !', "two boys one with a yellow ball play"),
        ("The man's black-and-white T-shirt isn't his.", "the man 's black-and-white t-shirt is n't his"),
        ("The boys’ 3.5 m wall (1,000 bricks) -- it’s high…", "the boys 3.5 m wall 1,000 bricks it 's high"),
        ("café & crêpe", "café & crêpe"),
        ("", ""),
    ],
)
def test_tokens(caption, tokens):
    assert tokenize(caption) == tokens.split()


def test_bleu_by_hand():
    # Picture 1: 6 words, the reference's "sat" for "is": unigrams 5/6, bigrams 3/5, trigrams 1/4, 4-grams 0/3.
    # Picture 2: 5 words, all right and as long as the closest reference: 5/5, 4/4, 3/3, 2/2.
    # Over the corpus 10/11, 7/9, 4/7, 2/5, with 11 words for closest lengths 6 + 5: no brevity penalty.
    scores = score_captions(
        ["The cat sat on the mat.", "a dog runs on grass"],
        [["the cat is on the mat"], ["a dog runs on grass", "there is a dog that runs on the grass today"]],
    )
    assert scores.bleu4 == pytest.approx((10 / 11 * 7 / 9 * 4 / 7 * 2 / 5) ** 0.25, abs=1e-6)
    assert scores.count == 2


def test_bleu_brevity_by_hand():
    # 4 + 4 words, all of them right, where the references have 6 each: exp(1 - 12/8).
    scores = score_captions(
        ["one two three four", "five six seven eight"],
        [["one two three four five six"], ["five six seven eight nine ten"]],
    )
    assert scores.bleu4 == pytest.approx(math.exp(1 - 12 / 8), abs=1e-6)


def test_rouge_by_hand():
    # LCS of "police killed the gunman" and "police kill the gunman" is 3 of 4 and 4 words (Lin 2004): P = R = F = 3/4.
    # "a b" against "a x b y": LCS 2, P = 1, R = 1/2, F = (1 + 1.44) P R / (R + 1.44 P).
    scores = score_captions(["police killed the gunman", "a b"], [["police kill the gunman"], ["a x b y"]])
    assert scores.rouge_l == pytest.approx((0.75 + 2.44 * 0.5 / (0.5 + 1.44)) / 2, abs=1e-12)


def cider_d(candidates: list[str], references: list[list[str]]) -> float:
    """CIDEr-D from equations 1, 2 and 4 of arXiv 1411.5726: sigma 6, n-grams of 1 to 4 words, times 10."""

    def grams(caption, n):
        words = caption.split()
        return Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))

    total = 0.0
    for candidate, own in zip(candidates, references, strict=True):
        for n in range(1, 5):
            for reference in own:
                c, s = grams(candidate, n), grams(reference, n)
                space = sorted(c | s)
                df = [sum(any(g in grams(r, n) for r in other) for other in references) for g in space]
                idf = np.log(len(references)) - np.log(np.maximum(df, 1))
                c, s = (np.array([counts[g] for g in space], dtype=np.float64) * idf for counts in (c, s))
                norm = np.linalg.norm(c) * np.linalg.norm(s)
                if norm > 0:
                    length = len(candidate.split()) - len(reference.split())
                    total += 10 / 4 / len(own) * math.exp(-(length**2) / 72) * float(np.minimum(c, s) @ s) / norm
    return total / len(candidates)


def test_cider_against_the_formula():
    references = [
        ["a dog runs on the grass", "a brown dog runs over green grass", "the dog runs"],
        ["a boy plays in the water", "two boys play in a puddle of water"],
        ["a man climbs a steep rock", "the man is on the rock", "climber on a rock wall"],
        ["a girl in a red dress jumps", "the girl jumps"],
    ]
    candidates = [
        "a dog runs on green grass grass grass",
        "a boy plays in the water",
        "a dog",
        "the girl in a blue dress jumps over a dog in the water and the water",
    ]
    expected = cider_d(candidates, references)
    assert 0.5 < expected < 9
    assert score_captions(candidates, references).cider == pytest.approx(expected, abs=1e-9)


def test_empty_candidate_scores_nothing():
    scores = score_captions(["", ""], [["a dog runs on grass"], ["a boy plays in water"]])
    assert scores.cider == 0 and scores.bleu4 is None and scores.rouge_l == 0


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        (["a"], [["a"], ["b"]], "1 captions for 2"),
        (["a"], [["a"]], "at least two"),
        (["a", "b"], [["a"], []], "picture 1"),
        (["a", "b"], [["a"], "b"], "picture 1"),
        (["a", "b"], [["a"], [" . "]], "picture 1"),
    ],
)
def test_caption_lists_that_do_not_fit(candidates, references, message):
    with pytest.raises(ValueError, match=message):
        score_captions(candidates, references)


def test_missing_extra_is_named_before_the_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)
    with pytest.raises(ImportError, match=r"mmlm\[eval\]"):
        score_captions(["a", "b"], [["a"], ["b"]])
    model = KnownModel()
    with pytest.raises(ImportError, match=r"mmlm\[eval\]"):
        evaluate(model, known_records())
    assert model.encoded == 0


# --- retrieval --------------------------------------------------------------------------------------------------------


def test_retrieval_by_hand():
    # Similarities, pictures down, captions across. Captions 0 and 1 are of picture 0, 2 of picture 1, 3 of picture 2.
    table = torch.tensor([[0.1, 0.8, 0.9, 0.3], [0.7, 0.2, 0.6, 0.5], [0.2, 0.4, 0.1, 0.6]])
    # Pictures: 0's best caption 0.8 lies behind 0.9 (rank 2); 1's 0.6 behind 0.7 (rank 2); 2's 0.6 is first.
    # Captions: 0's picture 0.1 behind 0.7 and 0.2 (rank 3); 1's 0.8 first; 2's 0.6 behind 0.9 (rank 2); 3's 0.6 first.
    scores = retrieval_recall(torch.eye(3), table.T, [0, 0, 1, 2], ks=(1, 2, 3))
    assert scores.image_to_text == pytest.approx({1: 1 / 3, 2: 1, 3: 1})
    assert scores.text_to_image == pytest.approx({1: 2 / 4, 2: 3 / 4, 3: 1})
    assert (scores.images, scores.texts) == (3, 4)


def test_collapsed_embeddings_find_nothing():
    scores = retrieval_recall(torch.ones(20, 4) / 2, torch.ones(40, 4) / 2, [i // 2 for i in range(40)])
    assert set(scores.image_to_text.values()) == set(scores.text_to_image.values()) == {0.0}


def test_retrieval_owners_are_checked():
    with pytest.raises(ValueError, match="name one of 2 pictures"):
        retrieval_recall(torch.eye(2), torch.eye(2), [0, 2])
    with pytest.raises(ValueError, match="at least one caption"):
        retrieval_recall(torch.eye(2), torch.eye(2), [0, 0])


# --- the worth of the picture -----------------------------------------------------------------------------------------


class KnownModel:
    """Gives every right token probability 0.8 with the medium of its own record, 0.2 with another, 0.5 with none.

    The medium says which record it is of (its one feature), and so does the first character of each answer.
    """

    template = PromptTemplate()
    transcribes = False
    said = ("zero apples fall down", "one pear falls", "two plums")  # what it writes of each recording

    def __init__(self):
        self.vocabulary = MediaVocabulary(VOCAB, ADDED_TOKENS_WITH_AUDIO)
        self.processor = Processor(tokenizer(), self.vocabulary)  # one token a byte
        self.encoders = {"image": None, "audio": None}
        self.encoded = 0

    @property
    def transcriber(self):
        raise ValueError("no Whisper")

    def encode_media(self, media):
        self.encoded += len(media)
        levels = [
            item.source.getpixel((0, 0))[0] if isinstance(item, Image) else round(10 * item.source.waveform.mean())
            for item in media
        ]
        return [Features(torch.full((1, 1, 1), float(level))) for level in levels]

    def __call__(self, batch, media):
        size = VOCAB + len(self.vocabulary)
        logits = torch.zeros(*batch.input_ids.shape, size)
        for row, (labels, items) in enumerate(zip(batch.labels, media, strict=True)):
            first = self.processor.decode(labels[labels != -100][:1])
            own = int(first) if first.isdigit() else -1
            probability = 0.5
            if items:
                probability = 0.8 if items[0].tokens.item() == own else 0.2
            assert sum(int(i in self.vocabulary.media_ids) for i in batch.input_ids[row].tolist()) == len(items)
            for position in range(1, batch.input_ids.shape[1]):
                # Logits of the right token against all others alike.
                others = (1 - probability) / (size - 1)
                logits[row, position - 1, batch.input_ids[row, position]] = math.log(probability / others)
        return SimpleNamespace(logits=logits[:, :-1][batch.labels[:, 1:] != -100])

    def generate(self, prompts, **options):
        return [self._result(self._text(*prompt)) for prompt in prompts]

    def _text(self, medium, asked):
        number = int(medium.source.tokens.item())
        described = {"Output:": f"{number} is what it shows", "Transcript:": self.said[number]}
        return described.get(asked, f" {number}. ")

    def _result(self, text):
        return GenerationResult(text, (), (), "stop", Usage(0, 0, 0, 0))


def grey(level: int) -> bytes:
    """A picture of one grey; which record it is of."""
    file = io.BytesIO()
    PILImage.new("RGB", (2, 2), (level,) * 3).save(file, "PNG")
    return file.getvalue()


def steady(level: int) -> bytes:
    """A recording of one value; which record it is of."""
    file = io.BytesIO()
    soundfile.write(file, np.full(400, level / 10), 16000, format="WAV")
    return file.getvalue()


def known_record(key: str, level: int, captions: tuple, qa: tuple = (), modality: str = "image", **texts) -> Record:
    medium = {"source": grey(level)} if modality == "image" else {"sound": steady(level)}
    return Record(key, captions=captions, qa=qa, **medium, **texts)


def known_records(modality: str = "image"):
    # Lengths differ, so that a mean over texts or records is not the mean over tokens.
    return [
        known_record("a", 0, ("0", "0 long caption", "0 is what it shows"), (("which?", "0"),), modality),
        known_record("b", 1, ("1 is what it shows too",), (("which?", "1"), ("and now?", "1")), modality),
        known_record("c", 2, ("2 and a very much longer caption",), (), modality),
    ]


MODALITIES = pytest.mark.parametrize("modality", ["image", "audio"])


@MODALITIES
def test_gap_of_known_losses(modality):
    model = KnownModel()
    gap = medium_gap(model, known_records(modality), modality, batch_size=2, resamples=200)
    assert gap.right == pytest.approx(-math.log(0.8), abs=1e-5)
    assert gap.shuffled == pytest.approx(-math.log(0.2), abs=1e-5)
    assert gap.without == pytest.approx(-math.log(0.5), abs=1e-5)
    assert gap.gap == pytest.approx(math.log(4), abs=1e-5)
    assert gap.interval == pytest.approx((math.log(4), math.log(4)), abs=1e-5)  # every record has the same gap
    # Characters of every caption and answer, and one end token each.
    assert gap.tokens == (1 + 14 + 18 + 1 + 4) + (22 + 1 + 1 + 3) + (32 + 1)
    assert gap.records == 3 and model.encoded == 3


def test_gap_is_a_mean_over_tokens():
    class HalfBlind(KnownModel):
        """Sees nothing in the records' pictures but record 2's: the others are as good as wrong."""

        def encode_media(self, media):
            seen = [image.source.getpixel((0, 0))[0] == 2 for image in media]
            return [Features(torch.full((1, 1, 1), 2.0 if two else -1.0)) for two in seen]

    gap = medium_gap(HalfBlind(), known_records(), resamples=200)
    tokens, seen = 38 + 27 + 33, 33
    assert gap.right == pytest.approx(-(seen * math.log(0.8) + (tokens - seen) * math.log(0.2)) / tokens, abs=1e-5)
    assert gap.gap == pytest.approx(seen * math.log(4) / tokens, abs=1e-5)
    assert gap.interval[0] == pytest.approx(0, abs=1e-5) and gap.interval[1] > gap.gap


class PixelEncoder(FrozenEncoder):
    """A frozen encoder of one number, a picture's first pixel: four tokens that depend on it."""

    modality, dim, name = "image", 6, None

    def preprocess(self, media):
        return torch.full((1,), float(load_image(media).getpixel((0, 0))[0]))

    def encode(self, batch):
        positions = torch.arange(24.0).view(1, 4, 6)
        return Features(torch.sin(batch.view(-1, 1, 1) * (1 + positions)))

    def fingerprint(self):
        return "pixels"


def test_gap_of_a_real_model_against_its_own_loss_one_text_at_a_time():
    model = assemble(language_model("llama"), PixelEncoder(), tokenizer=tokenizer(), resampler=ResamplerConfig(depth=1))
    with torch.no_grad():
        for name, parameter in model.added_parameters():
            if name.endswith("gate"):
                parameter.fill_(1.0)  # open, so that the picture matters
    records = [
        Record("a", grey(1), ("red", "a longer one"), (("how?", "so"),)),
        Record("b", grey(2), ("blue, blue and blue",)),
        Record("c", grey(3), (), (("what?", "nothing at all"),)),
    ]
    gap = medium_gap(model, records, batch_size=4, seed=5, resamples=10)

    def mean_loss(pictures):
        total, tokens = 0.0, 0
        for record, picture in zip(records, pictures, strict=True):
            asked = [("Output:", caption) for caption in record.captions]
            asked += [(f"Question:{question} Short answer:", answer) for question, answer in record.qa]
            for prompt, answer in asked:
                shown = [prompt] if picture is None else [Image(picture), prompt]
                example = model.processor.encode(shown, answer)
                with torch.no_grad():
                    output = model(model.processor.collate([example]), [example.media])
                total += output.loss.item() * (len(answer) + 1)  # one token a byte, and the end
                tokens += len(answer) + 1
        return total / tokens

    wrong = derangement(3, seed=5)
    assert gap.right == pytest.approx(mean_loss([grey(1), grey(2), grey(3)]), abs=1e-5)
    assert gap.shuffled == pytest.approx(mean_loss([records[index].image for index in wrong]), abs=1e-5)
    assert gap.without == pytest.approx(mean_loss([None] * 3), abs=1e-5)
    assert abs(gap.gap) > 1e-3


@MODALITIES
def test_gap_needs_two_records(modality):
    with pytest.raises(ValueError, match="at least two records with a (picture|recording), got 1"):
        medium_gap(KnownModel(), known_records(modality)[:1], modality)


def test_one_medium_is_exchanged_and_the_other_stays():
    records = [Record(str(n), grey(n), ("seen",), (("which?", "a"),), steady(n), "said", "b") for n in range(4)] + [
        Record("4", grey(4), ("a picture alone",))
    ]
    model = KnownModel()
    features, bad = encoded(model, records, batch_size=3)
    assert not bad
    wrong = derangement(4, seed=2)
    for modality, kinds, others in (
        ("audio", ["transcript", "question", "reply"], {n: wrong[n] for n in range(4)}),
        ("image", ["caption", "question", "reply"], None),
    ):
        trials = Trials(model, records, features, modality, seed=2)
        asked = trials.asked()
        assert [one.text.kind for one in asked if one.number == 0] == kinds
        assert not any(one.text.reads for one in asked)  # the words of the recording would tell what it says
        given = trials.wrong if others is None else others
        assert (
            trials.wrong == given and sorted(given) == sorted(given.values()) and all(a != b for a, b in given.items())
        )
        for one in asked:
            for giver in (trials.own, trials.wrong, trials.none):
                *media, words = trials.prompt(one, giver)
                shown = {type(part).__name__: int(part.source.tokens.item()) for part in media}
                expected = {"Image": one.number, **({"Sound": one.number} if one.number < 4 else {})}
                name = "Image" if modality == "image" else "Sound"
                expected[name] = giver[one.number]
                assert shown == {name: level for name, level in expected.items() if level is not None}
                asks = {"caption": "Output:", "transcript": "Transcript:", "reply": "Short answer:"}
                assert words == asks.get(one.text.kind, "Question:which? Short answer:")


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_derangement_moves_everything(count):
    wrong = derangement(count, seed=3)
    assert sorted(wrong) == list(range(count))
    assert all(a != b for a, b in enumerate(wrong))
    assert wrong == derangement(count, seed=3)
    assert count < 10 or wrong != derangement(count, seed=4)


def test_bootstrap_interval_is_the_normal_one_for_a_mean():
    totals = np.random.default_rng(0).normal(1.0, 2.0, 400)
    low, high = bootstrap_interval(totals, np.ones(400), resamples=20_000)
    error = totals.std() / math.sqrt(400)
    assert (low, high) == pytest.approx((totals.mean() - 1.96 * error, totals.mean() + 1.96 * error), abs=0.02)


def test_bootstrap_draws_records_not_tokens():
    # Splitting every token's loss in two (twice the tokens, half the loss each) tells nothing new: same relative width.
    totals, counts = np.random.default_rng(1).normal(5.0, 1.0, (2, 100)) ** 2
    low, high = bootstrap_interval(totals, counts)
    assert bootstrap_interval(totals, 2 * counts) == pytest.approx((low / 2, high / 2))


# --- the table --------------------------------------------------------------------------------------------------------


@MODALITIES
def test_evaluate_known_model(modality):
    whole = evaluate(KnownModel(), known_records(modality))
    assert isinstance(whole, Report)
    report, other = (whole.image, whole.audio) if modality == "image" else (whole.audio, whole.image)
    assert other is None
    assert report.answers.right == 1 and report.answers.shuffled == 0 and report.answers.count == 3
    assert report.answers.majority == pytest.approx(2 / 3) and report.answers.majority_answer == "1"
    assert report.captions.cider > report.shuffled_captions.cider
    assert report.replies is None and report.transcripts is None and report.labels is None
    table, medium = str(whole), "picture" if modality == "image" else "recording"
    assert "100.0%" in table and "1.386 nats" in table and "'1' would match 66.7% of the questions" in table
    assert all(f"{which} {medium}" in table for which in ("right", "wrong", "no"))
    assert ("recording" if modality == "image" else "picture") not in table
    assert whole.to_dict()[modality]["loss"]["gap"] == report.loss.gap


def spoken_records():
    # What KnownModel.said gets wrong of them: nothing; "falls" of "a pear falls"; "green plums" is left out.
    words = ("Zero apples fall down.", "one pear stands", "two plums green plums")
    return [
        known_record(str(n), n, (), (), "audio", transcript=said, reply=reply)
        for n, (said, reply) in enumerate(zip(words, ("0", "1", "0"), strict=True))
    ]


def test_transcripts_and_spoken_questions_by_hand():
    report = evaluate(KnownModel(), spoken_records()).audio
    assert report.transcripts.right == pytest.approx((0 + 1 + 2) / 11)
    # Texts of 4, 3 and 2 words beside those of another recording, of 4, 3 and 4 words, with which they share none.
    wrong = derangement(3, seed=0)
    errors = 4 + 4 + 4 if wrong == [1, 2, 0] else 4 + 4 + 3
    assert report.transcripts.shuffled == pytest.approx(errors / 11)
    assert report.transcripts.whisper is None and report.transcripts.count == 3
    whole = report.transcripts.whole  # "Zero apples fall down." alone is right
    assert (whole.right, whole.shuffled, whole.majority) == pytest.approx((1 / 3, 0, 1 / 3))
    # Recording 2 is answered "2", and another one by its own number: right is 2 of 3.
    assert report.replies.right == pytest.approx(2 / 3) and report.replies.count == 3
    expected = ("0", "1", "0")
    assert report.replies.shuffled == pytest.approx(sum(str(wrong[n]) == expected[n] for n in range(3)) / 3)
    assert report.replies.majority == pytest.approx(2 / 3) and report.replies.majority_answer == "0"
    assert report.answers is None and report.captions is None
    table = str(report)
    assert "word error rate, 3 transcripts" in table and "27.3%" in table and "Whisper" not in table


def test_whispers_own_word_error_rate_stands_beside_that_of_the_adapters():
    heard = {record.audio: record.transcript for record in spoken_records()[:2]}  # and of the third one, another word

    class WithDecoder(KnownModel):
        transcribes = True
        transcriber = SimpleNamespace(
            transcribe=lambda audio, **_: SimpleNamespace(text=heard.get(audio, "two plums green leaves"))
        )

    report = evaluate(WithDecoder(), spoken_records())
    assert report.audio.transcripts.whisper == pytest.approx(1 / 11)
    assert "own Whisper has a word error rate of 9.1%" in str(report)


def test_spoken_questions_of_a_real_model_are_answered_as_by_ask():
    model, count = parts.shared(ears="tokens"), 4
    pictures = [grey(60 * n) for n in range(count)]
    sounds = [wav(parts.sound(0.5 + 0.2 * n, seed=n).source) for n in range(count)]
    wrong = derangement(count, seed=0)
    for modality in ("audio", "image"):
        heard = [wrong[n] if modality == "audio" else n for n in range(count)]
        seen = [wrong[n] if modality == "image" else n for n in range(count)]
        said, other = (
            model.ask([sounds[n] for n in h], image=[pictures[n] for n in s], mode="features", max_new_tokens=6)
            for h, s in ((range(count), range(count)), (heard, seen))
        )
        expected = [said[0], said[1], other[2], other[3]]
        assert all(normalize_answer(text) for text in expected)
        records = [Record(str(n), pictures[n], (), (), sounds[n], None, reply) for n, reply in enumerate(expected)]
        report = getattr(evaluate(model, records, max_new_tokens=6), modality)
        same = [normalize_answer(text) for text in expected]
        for found, given in ((report.replies.right, said), (report.replies.shuffled, other)):
            assert found == sum(normalize_answer(a) == b for a, b in zip(given, same, strict=True)) / count
        assert report.replies.right >= 0.5 and report.replies.shuffled >= 0.5


def test_a_film_is_seen_whole(tmp_path):
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 32
        for level in (0, 120, 250):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    model = parts.shared()
    records = [Record("film", FileSlice(path), ("a film",)), Record("still", grey(9), ("a still",))]
    features, bad = encoded(model, records)
    (film,) = model.encode_media([path])
    assert not bad and torch.equal(features["image"][0].tokens, film.tokens)
    assert features["image"][0].times.unique().tolist() == [0.0, 1.0, 2.0]
    path.write_bytes(b"no film")
    assert "picture of record 'film' cannot be used" in encoded(model, records)[1][0]


def wav(sound) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound.waveform, sound.sample_rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def test_labels_are_captions_that_recur():
    class Labelled(KnownModel):
        def _text(self, medium, asked):
            return ("Rain.", "a dog", "rain", "wind")[int(medium.source.tokens.item())]

    sounds = [
        known_record(str(n), n, (label,), (), "audio") for n, label in enumerate(("rain", "a dog", "rain", "bells"))
    ]
    labels = evaluate(Labelled(), sounds).audio.labels
    assert (labels.right, labels.majority, labels.majority_answer, labels.count) == (3 / 4, 2 / 4, "rain", 4)
    written, expected = ("rain", "a dog", "rain", "wind"), ("rain", "a dog", "rain", "bells")
    wrong = derangement(4, seed=0)
    assert labels.shuffled == sum(written[wrong[n]] == expected[n] for n in range(4)) / 4
    assert "exact match, 4 captions" in str(evaluate(Labelled(), sounds))


def test_pictures_and_recordings_are_measured_each_by_itself():
    report = evaluate(KnownModel(), [*known_records(), *known_records("audio")])
    assert report.image == evaluate(KnownModel(), known_records()).image
    assert report.audio == evaluate(KnownModel(), known_records("audio")).audio
    assert "right picture" in str(report) and "right recording" in str(report)


def test_media_without_an_encoder_are_refused_before_any_is_encoded():
    model = KnownModel()
    del model.encoders["audio"]
    with pytest.raises(ValueError, match="the data hold recordings, but the model has no audio encoder"):
        evaluate(model, known_records("audio"))
    assert model.encoded == 0


def test_records_left_out_are_counted():
    records = known_records()
    data = RecordSet(tuple(records) * 80, (BadRecord("gone", "no picture"),) * 2)  # below one percent
    report = evaluate(KnownModel(), data, limit=3, batch_size=2)
    assert report.bad_records == 2 == report.to_dict()["bad_records"]
    assert "2 more records could not be read" in str(report)
    with pytest.raises(ValueError, match="batch_size"):
        evaluate(KnownModel(), records, batch_size=0)
    with pytest.raises(ValueError, match="num_return_sequences must be 1"):
        evaluate(KnownModel(), records, num_return_sequences=2)
    with pytest.raises(TypeError, match="did you mean 'num_beams'"):
        evaluate(KnownModel(), records, num_beam=2)


def test_recordings_that_cannot_be_decoded_are_left_out_and_counted():
    records = known_records("audio")
    broken = Record("broken", None, records[0].captions, records[0].qa, b"no recording")
    report = evaluate(KnownModel(), [broken, *records, *[records[0]] * 200], limit=4, batch_size=2)
    assert report.bad_records == 1 and report.audio.loss.records == 3
    with pytest.raises(BadRecordsError, match="recording of record 'broken' cannot be used"):
        evaluate(KnownModel(), [broken, *records])


def test_pictures_that_cannot_be_decoded_are_left_out_and_counted():
    records = list(known_records())
    broken = Record("broken", b"no picture", records[0].captions, records[0].qa)
    report = evaluate(KnownModel(), [broken, *records, *[records[0]] * 200], limit=4, batch_size=2)
    assert report.bad_records == 1 and report.image.loss.records == 3
    with pytest.raises(BadRecordsError, match="picture of record 'broken' cannot be used"):
        evaluate(KnownModel(), [broken, *records])


def test_nothing_is_loaded_before_the_data_are_read(tmp_path):
    def load():
        raise AssertionError("loaded")

    with pytest.raises(FileNotFoundError):
        evaluate(load, tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="at least two records"):
        evaluate(load, list(known_records()), limit=1)


def test_bleu4_of_captions_under_four_words_is_left_out():
    scores = score_captions(["a dog", "a cat"], [["a dog", "one dog"], ["a red cat"]])
    assert scores.bleu4 is None and scores.cider > 0
    long = [["a dog"], ["the red cat sleeps"]]
    assert score_captions(["a dog", "a cat"], long).bleu4 is None
    assert score_captions(["a dog", "a red cat is here"], long).bleu4 is not None
    report = evaluate(KnownModel(), list(known_records()))
    assert "BLEU-4  " in str(report) and "left out" not in str(report)
    short = dataclasses.replace(report.image.captions, bleu4=None)
    told = str(dataclasses.replace(report.image, captions=short, shuffled_captions=short))
    assert "BLEU-4 is left out: no caption" in told and "BLEU-4  " not in told


def test_evaluate_captions_or_questions_alone():
    captions = [Record(r.key, r.source, r.captions) for r in known_records()]
    assert evaluate(KnownModel(), captions).image.answers is None
    questions = [Record(r.key, r.source, (), r.qa) for r in known_records() if r.qa]
    report = evaluate(KnownModel(), questions, limit=2).image
    assert report.captions is None and report.answers.count == 3 and "CIDEr" not in str(report)
    with pytest.raises(ValueError, match="at least two records"):
        evaluate(KnownModel(), questions, limit=1)


@pytest.mark.parametrize(
    ("answer", "plain"),
    [(" A red  Circle. ", "a red circle"), ("yes!", "yes"), ("3.5", "3.5"), ("book, pen", "book pen"), (".", "")],
)
def test_normalized_answers(answer, plain):
    assert normalize_answer(answer) == plain


def test_word_error_rate_by_hand():
    """Of eight words one is wrong, one is missing and one too many; case, stops and numerals do not count."""
    said = ["The cat sat on mat!", "7 a b colour"]
    expected = ["the cat sat on the mat", "seven b colour"]
    assert word_error_rate(said[:1], expected[:1]) == pytest.approx(1 / 6)
    assert word_error_rate(said, expected) == pytest.approx(2 / 9)
    assert word_error_rate(expected, expected) == 0.0
    with pytest.raises(ValueError, match="no word"):
        word_error_rate(["x"], [""])
