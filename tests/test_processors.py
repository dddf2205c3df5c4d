"""What identifies a part, a set of media or a run is the same on every processor: weights, settings and bytes, never
what a processor computed. Features and runs of one processor are gone on with on another."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SSE42 = {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}
AVX2 = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
MODES = {"SSE4.2": SSE42, "AVX2": AVX2, "native": {}}  # as `make test-processors` has them

SCRIPT = """
import dataclasses, io, json, signal, sys, warnings
from pathlib import Path
import soundfile, torch, mmlm
from mmlm.data import Record, RecordSet
from mmlm.retrieval.rices import Rices
from mmlm.training import train
from mmlm.training.objectives.adapters import AdaptersObjective
from mmlm.training.checkpoint import latest_checkpoint
from mmlm.training.pairs import read_pairs
from support import parts
from support.training_objectives import png, picture_folder

folder, stop = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)

def wav(seed):
    audio, buffer = parts.sound(0.3, seed).source, io.BytesIO()
    soundfile.write(buffer, audio.waveform, audio.sample_rate, format="WAV")
    return buffer.getvalue()

with warnings.catch_warnings():
    warnings.simplefilter("error")  # a false warning of other weights, for one
    nano = mmlm.load("nano")
model = mmlm.assemble(  # its new adapters are drawn on this processor
    nano.language_model.model, nano.encoders["image"], audio_encoder=nano.encoders["audio"],
    tokenizer=nano.language_model.tokenizer, resampler=parts.RESAMPLER, audio_resampler=parts.EARS["latents"],
)
counts = {}

def count(what, part, name):
    method = getattr(part, name)
    def counting(batch):
        counts[what] = counts.get(what, 0) + len(batch)
        return method(batch)
    setattr(part, name, counting)

for encoder in model.encoders.values():
    count("features", encoder, "encode")
count("embeddings", model.encoders["image"], "embed_images")
count("codes", nano.codecs["image"], "encode")

records = RecordSet(tuple(Record(f"p{i}", png((40 * i, 9, 9)), captions=("red",)) for i in range(4))
                    + tuple(Record(f"s{i}", None, sound=wav(i), transcript="hello") for i in range(4)))
Rices(model.encoders["image"], RecordSet(records[:4]), cache=folder / "rices")
parts_of = AdaptersObjective.parts

def stopping(self, step):
    if step == stop:
        signal.raise_signal(signal.SIGTERM)
    return parts_of(self, step)

AdaptersObjective.parts = stopping
try:
    result = train(model, records, output=folder / "run", steps=6, batch_size=4, precision="auto", progress=False)
    finished = result.steps
except SystemExit:
    finished = None
identity = dict(latest_checkpoint(folder / "run/checkpoints").state["identity"])
del identity["starting_weights"]  # compared to rounding when the run goes on
pairs = read_pairs(nano, picture_folder(folder), folder / "codes", 4.0, progress=False)
print(json.dumps({
    "identities": {"nano": dataclasses.asdict(nano.config()), "run": identity, "pairs": pairs.digest},
    "finished": finished, "encoded": counts,
    "files": sorted(str(path.relative_to(folder)) for kind in ("rices", "codes", "run/features")
                    for path in (folder / kind).rglob("*.safetensors")),
}))
"""


def on(mode: str, folder: Path, stop: int) -> dict:
    """What the script finds on a processor with these instructions; its run stops in step `stop`."""
    environment = {name: value for name, value in os.environ.items() if name not in SSE42} | MODES[mode]
    environment["PYTHONPATH"] = f"{ROOT}:{ROOT}/tests"
    command = [sys.executable, "-c", SCRIPT, str(folder), str(stop)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{mode}: {run.stderr}"
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """One run in one folder, begun on the first processor and gone on with on the others."""
    folder = tmp_path_factory.mktemp("run")
    return [on(mode, folder, stop) for mode, stop in zip(MODES, (1, 3, 99), strict=True)]


def test_identities_are_the_same_on_every_processor(found):
    old, *others = (one["identities"] for one in found)
    assert json.dumps(old["nano"]).count('"fingerprint"') == 6
    assert {"language_model", "image_encoder", "audio_encoder", "data"} <= old["run"].keys()
    for other in others:
        assert other == old


def test_features_codes_and_embeddings_of_one_processor_serve_another(found):
    assert [one["encoded"] for one in found] == [{"features": 8, "embeddings": 4, "codes": 16}, {}, {}]
    assert found[0]["files"] and all(one["files"] == found[0]["files"] for one in found)


def test_a_run_goes_on_on_another_processor(found):
    assert [one["finished"] for one in found] == [None, None, 6]
