"""METEOR of captions: matches by METEOR 1.5, which pycocoevalcap brings along, where Java is there."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from subprocess import PIPE, Popen

import numpy as np

from mmlm.evaluation.metrics.measure import Measure
from mmlm.evaluation.metrics.tokens import Pair
from mmlm.evaluation.metrics.upstream import coco_module

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75  # METEOR 1.5's for English
WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # of a match of the word, its stem, a synonym, a paraphrase


def has_java() -> bool:
    """Whether `java` can be found, without which there is no METEOR."""
    return shutil.which("java") is not None


def meteor(captions: Pair) -> Measure:
    """METEOR 1.5, 0 to 1 (Denkowski and Lavie 2014), of the whole set, in the settings of COCO's evaluation.

    ImportError without pycocoevalcap; OSError where Java ends early.
    """
    statistics = _statistics(captions)
    return Measure("METEOR", lambda counts: float(meteor_of(counts @ statistics)), meteor_of(statistics))


def meteor_of(sums: np.ndarray) -> np.ndarray:
    """METEOR from sums `[..., 23]` of what METEOR prints about a caption.

    They are the words and function words of candidate and reference, the matches of content and function words of
    each by four matchers, chunks, and the words of both that are matched.
    """
    words = {"found": sums[..., 0], "wanted": sums[..., 1]}
    function = {"found": sums[..., 2], "wanted": sums[..., 3]}
    content = {"found": sums[..., 4:20:4] @ WEIGHTS, "wanted": sums[..., 5:20:4] @ WEIGHTS}
    other = {"found": sums[..., 6:20:4] @ WEIGHTS, "wanted": sums[..., 7:20:4] @ WEIGHTS}
    shares = {}
    for side in words:
        weight = DELTA * (words[side] - function[side]) + (1 - DELTA) * function[side]
        matched = DELTA * content[side] + (1 - DELTA) * other[side]
        shares[side] = np.divide(matched, weight, out=np.zeros_like(matched), where=weight > 0)
    below = ALPHA * shares["found"] + (1 - ALPHA) * shares["wanted"]
    mean = np.divide(shares["found"] * shares["wanted"], below, out=np.zeros_like(below), where=below > 0)
    matches = (sums[..., 21] + sums[..., 22]) / 2
    chunks = np.divide(sums[..., 20], matches, out=np.zeros_like(matches), where=matches > 0)
    return mean * (1 - GAMMA * chunks**BETA)


def _statistics(captions: Pair) -> np.ndarray:
    lines = []
    for number, found in captions.found.items():
        texts = [*captions.wanted[number], *found]
        lines.append(" ||| ".join(["SCORE", *(text.replace("|||", "") for text in texts)]))
    printed, complaint = _printed("\n".join([*lines, ""]).encode())
    rows = [line.split() for line in printed.decode().splitlines()]
    if len(rows) != len(lines) or any(len(row) != 23 for row in rows):
        raise OSError(f"METEOR ended early: {complaint.decode(errors='replace').strip()[:300] or 'no message'}")
    statistics = np.array(rows, dtype=np.float64)
    chunks, matched = statistics[:, 20], statistics[:, 21:]
    whole = (chunks == 1) & (matched == statistics[:, :2]).all(axis=1)
    chunks[whole] = 0  # a caption that is its reference is not fragmented
    return statistics


def _printed(lines: bytes) -> tuple[bytes, bytes]:
    """What METEOR prints and complains of. It runs in a copy: beside a path with blanks or umlauts it finds no data."""
    upstream = coco_module("meteor.meteor")
    command = ["java", "-Xmx2G", "-jar", upstream.METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
    with tempfile.TemporaryDirectory() as folder:
        home = shutil.copytree(Path(str(upstream.__file__)).parent, Path(folder, "meteor"))
        with Popen(command, cwd=home, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
            return process.communicate(lines)
