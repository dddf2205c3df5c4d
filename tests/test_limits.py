"""Limits hold for what is made: memory, characters, rows, frames, names; and what has no end is never begun."""

import io
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from encoders.media import MediaError, load_audio, load_video
from mmlm.data.readers.paths import expand_braces
from mmlm.generation import memory
from mmlm.generation.memory import MemoryLimitError
from mmlm.generation.options import GenerationOptions
from mmlm.prompting.processor import Processor
from mmlm.prompting.vocabulary import MediaVocabulary
from support import families, parts

ROOT = Path(__file__).parents[1]
quick = settings(max_examples=60, deadline=None)


def grown(code: str, folder: Path) -> int:
    """By how many bytes the peak memory of a process grows while it runs `code`, after its imports."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process is read from Linux's /proc")
    whole = f"""
import io
import av, numpy, soundfile, soxr
from encoders.media import MediaError, load_audio, load_image, load_video
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM:"))
load_audio((numpy.zeros(30000, numpy.float32), 8000))
before = peak()
{code}
print(peak() - before)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", whole], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


# ---- media


URLS = ("'data:,' + '%41' * 2_000_000", "'data:,' + '%' * 3_000_000", "'data:;base64,' + 'A ' * 3_000_000")


@pytest.mark.parametrize("url", URLS)
def test_a_data_url_takes_the_memory_of_its_data(url, tmp_path):
    code = f"url = {url}\ntry:\n    load_image(url)\nexcept MediaError:\n    pass"
    assert grown(code, tmp_path) < 50_000_000  # where an object for each byte takes 150 MB and more


@given(st.binary(max_size=300), st.integers(1, 40))
@quick
def test_a_data_url_is_read_in_pieces_as_it_is_in_one(data, piece):
    from urllib.parse import quote_from_bytes, unquote_to_bytes

    from encoders.media import source

    for text in (quote_from_bytes(data), "".join(f"%{byte:02x}" for byte in data), data.decode("latin-1")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(source, "_PIECE", piece + 2)
            assert source.read_bytes(f"data:,{text}", "x", 10**6, False) == unquote_to_bytes(text)


def film_that_grows(path: Path, side: int) -> Path:
    """A film of 64 × 64 by its header, whose frames are a small one and then larger ones."""
    with av.open(path, "w", format="avi") as file:
        stream = file.add_stream("mjpeg", rate=1)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p"
        for number, size in enumerate((64, side, side, side)):
            packet = av.Packet(jpeg(size))
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1)
            packet.is_keyframe = True
            file.mux(packet)
    return path


def jpeg(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(file, "JPEG")
    return file.getvalue()


def test_frames_may_not_be_larger_than_the_limit_whatever_the_header_says(tmp_path):
    film = film_that_grows(tmp_path / "a.avi", 640)
    assert {frame.size for frame in load_video(film).frames} == {(64, 64), (640, 640)}
    for limit in (640 * 640 - 1, 100_000):
        with pytest.raises(MediaError, match="pixels|damaged"):
            load_video(film, max_pixels=limit)
    film_that_grows(tmp_path / "b.avi", 6000)
    code = "try:\n    print(load_video('b.avi', max_pixels=10**6), end='')\nexcept MediaError:\n    pass"
    assert grown(code, tmp_path) < 6000 * 6000  # of which one decoded frame has 54 MB


def test_frames_may_not_be_more_than_the_limit_together(tmp_path):
    film = film_that_grows(tmp_path / "a.avi", 640)
    assert len(load_video(film, num_frames=4, max_pixels=640 * 640).frames) == 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("encoders.media.video._LARGEST", 2)
        with pytest.raises(MediaError, match="together; take fewer by num_frames, or raise max_pixels"):
            load_video(film, num_frames=4, max_pixels=640 * 640)
        assert len(load_video(film, num_frames=4, max_pixels=2 * 640 * 640).frames) == 4


def test_a_recording_takes_the_memory_of_its_samples_and_no_more_than_an_hour_is_read_at_once(tmp_path):
    soundfile.write(tmp_path / "quiet.flac", np.zeros(3000 * 8000, np.int16), 8000)
    samples = 3000 * 16_000
    assert grown("sound = load_audio('quiet.flac')\nassert len(sound.waveform) == 48_000_000", tmp_path) < 5.5 * samples
    soundfile.write(tmp_path / "long.flac", np.zeros(3700 * 1000, np.int16), 1000)
    with pytest.raises(MediaError, match="longer than 3,600 s; cut it, or raise max_seconds"):
        load_audio(tmp_path / "long.flac", sample_rate=1000)
    assert load_audio(tmp_path / "long.flac", sample_rate=1000, max_seconds=4000).seconds == 3700
    with pytest.raises(MediaError, match="more than 268,435,456 samples"):
        load_audio(tmp_path / "long.flac", sample_rate=96_000, max_seconds=4000)


@given(
    hnp.arrays(
        st.sampled_from((np.float32, np.float64)), hnp.array_shapes(min_dims=1, max_dims=2, min_side=2, max_side=64),
        elements=st.sampled_from([0.0, 0.5, -1.0, 15.9, -16.0, 16.1, 1e30, -1e30, 3e38, np.nan, np.inf]),
    ),
    st.sampled_from((8000, 16_000, 44_100)),
)  # fmt: skip
@quick
def test_what_is_finite_stays_finite_or_is_refused(samples, rate):
    try:
        waveform = load_audio((samples, rate)).waveform
    except MediaError:
        return
    assert np.isfinite(waveform).all() and np.abs(samples).max() <= 16


# ---- files


def test_what_is_no_regular_file_is_refused_at_every_door(tmp_path):
    for name in ("a", "a.jsonl", "a.json", "a.tar", "a.yaml", "a.png", "a.wav", "a.mp4", "a.pt"):
        os.mkfifo(tmp_path / name)
        (tmp_path / f"zero-{name}").symlink_to("/dev/zero")
    code = """
from pathlib import Path
import mmlm
from decoders.codecs.checkpoint import load_codec
from encoders.clip import ClipImageEncoder
from encoders.media import audio_key, content_key, load_audio, load_image, load_video
from encoders.whisper import load_whisper
from mmlm.assembly.codecs import load_one_codec
from mmlm.assembly.interop import open_flamingo
from mmlm.data import FileSlice, read_records
from mmlm.data.find import media_in
from mmlm.data.media import find_media
from mmlm.training import train_from_recipe
doors = {
    "a": (mmlm.load, load_codec, load_one_codec, ClipImageEncoder.load, lambda path: mmlm.assemble(str(path)),
          lambda path: FileSlice(path).read(), lambda path: ClipImageEncoder.load(f"ViT-B-32/{path}")),
    "a.jsonl": (read_records, lambda path: list(media_in(str(path), "image", ("png",)))),
    "a.json": (read_records, lambda path: list(media_in(str(path), "image", ("png",)))),
    "a.tar": (read_records, lambda path: list(media_in(str(path), "image", ("png",)))),
    "a.yaml": (train_from_recipe,),
    "a.png": (load_image, content_key, lambda path: find_media(path, "image")),
    "a.wav": (load_audio, audio_key, lambda path: find_media(path, "audio")),
    "a.mp4": (load_video,),
    "a.pt": (load_whisper, lambda path: open_flamingo.load(path, "x")),
}
for name, some in doors.items():
    for door in some:
        for prefix in ("", "zero-"):
            try:
                door(Path.cwd() / f"{prefix}{name}")
            except (ValueError, OSError):
                continue
            raise SystemExit(f"{prefix}{name} passed {door}")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, timeout=240)
    assert ran.returncode == 0, ran.stderr.decode()


@pytest.mark.parametrize("pattern", ["{0..999999999}.tar", "{0..9}" * 40, "{a,b}" * 3000, "{0..99999}" + "x" * 50_000])
def test_a_pattern_stands_for_a_limited_number_of_names(pattern):
    with pytest.raises(ValueError, match="more than 100,000 names"):
        expand_braces(pattern)
    assert len(expand_braces("{0..99}{a,b}{000..499}")) == 100_000


# ---- texts


def byte_level(normalizer=None) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, trained to long entries."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["=" * 64, " " * 32, "the internationalisation of ἅ ǖ 각 " * 3] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


TOKENIZERS = [byte_level(), byte_level(normalizers.NFC()), families.tokenizer()]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["bytes", "composed", "families"])
@given(st.text(max_size=200) | st.text(st.sampled_from("=  e\u0301\u0308\u0304\u1100\u1161\u11a8α\u0345\u0313")))
@quick
def test_a_text_that_fits_is_never_refused(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    processor = Processor(tokenizer, MediaVocabulary(len(tokenizer)), max_length=max(1, len(ids)))
    assert len(text) <= processor.max_characters


class Untouched:
    """A tokenizer whose use ends the test, once `closed`."""

    def __init__(self, tokenizer):
        self.tokenizer, self.closed = tokenizer, False

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, *args, **kwargs):
        assert not self.closed, "the text was tokenized"
        return self.tokenizer(*args, **kwargs)


def test_a_text_is_measured_before_it_is_tokenized():
    tokenizer = Untouched(families.tokenizer())
    processor = Processor(tokenizer, MediaVocabulary(len(tokenizer.tokenizer)), max_length=64)
    endless = Processor(tokenizer, MediaVocabulary(len(tokenizer.tokenizer)))
    tokenizer.closed = True
    huge = "a caption " * 30_000_000
    for measured in (
        lambda: processor.text_ids(huge), lambda: processor.encode([huge]), lambda: processor.encode("", huge),
        lambda: processor.encode(["a"] * 300_000), lambda: endless.encode([huge]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="characters, and .*; shorten it"):
            measured()


@pytest.mark.parametrize(
    ("text", "named"), [("a\ud800b", "not valid Unicode from character 2"), ("ab\0", "NUL at character 3")]
)
def test_what_is_no_text_is_refused_alike_everywhere(text, named):
    from encoders.transcription.settings import check_settings
    from mmlm.data import Record

    model = parts.shared("llama")
    for given_to in (
        lambda: model.generate([text]), lambda: model.processor.encode(["a"], text),
        lambda: model.log_probs([["a"]], [text]), lambda: Record("k", None, sound=b"s", transcript=text),
        lambda: model.encoders["image"].embed_texts([text]), lambda: check_settings(text, 0.0, None, 0),
        lambda: GenerationOptions(stop=text), lambda: Record("key", b"picture", (text,)),
        lambda: Record("key", b"picture", ("a",), ((text, "a"),)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=named):
            given_to()


# ---- numbers and rows


def test_numbers_of_numpy_are_numbers():
    model = parts.shared("llama")
    wanted = model.generate(["a"], do_sample=True, temperature=0.5, top_k=7, seed=3, max_new_tokens=4)
    found = model.generate(
        ["a"],
        do_sample=True,
        temperature=np.float64(0.5),
        top_k=np.int32(7),
        seed=np.int64(3),
        max_new_tokens=np.uint8(4),
    )
    assert found.token_ids == wanted.token_ids


@pytest.mark.parametrize("options", [
    dict(temperature=1e-6), dict(temperature=1e6), dict(repetition_penalty=1e-6), dict(repetition_penalty=1e6),
    dict(seed=2**63 - 1), dict(seed=-(2**63)), dict(top_k=2**31 - 1), dict(top_p=1e-300),
])  # fmt: skip
def test_the_ends_of_the_ranges_can_be_used(options):
    result = parts.shared("llama").generate(["a"], do_sample=True, max_new_tokens=3, **{"seed": 0, **options})
    assert np.isfinite(result.log_probs).all()


@pytest.mark.parametrize("penalty", [-5.0, 5.0])
def test_hypotheses_can_be_told_apart_at_the_ends_of_the_length_penalty(penalty):
    results = parts.shared("llama").generate(
        ["a"], num_beams=3, num_return_sequences=3, max_new_tokens=40, length_penalty=penalty
    )
    assert all(np.isfinite(result.score) and result.score != 0 for result in results)


@pytest.mark.parametrize("options", [
    dict(num_beams=40), dict(num_return_sequences=40, do_sample=True), dict(max_new_tokens=120),
])  # fmt: skip
def test_rows_that_do_not_fit_into_memory_are_refused_before_it_is_taken(options, monkeypatch):
    model = parts.shared("llama")
    monkeypatch.setattr(memory, "SMALL", 0)
    needed = []

    def asked(device):
        return 10**12

    monkeypatch.setattr(memory, "free_bytes", asked)
    check = memory.check_memory
    monkeypatch.setattr("mmlm.generation.cache.check_memory", lambda *given: (needed.append(given[0]), check(*given)))
    model.generate(["a"], max_new_tokens=4)
    (small,) = [size for size in needed if size]
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * small)
    model.generate(["a"], max_new_tokens=4)
    with pytest.raises(
        MemoryLimitError, match=r"rows of .* positions take .* free on cpu; take fewer at once \(batch_size"
    ):
        model.generate(["a"], **{"max_new_tokens": 4, **options})


def test_what_is_free_is_less_than_the_machine_has():
    import torch

    free = memory.free_bytes(torch.device("cpu"))
    assert free is None or 0 < free <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
