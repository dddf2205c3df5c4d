"""lmms-eval on a model that `mmlm serve` serves: `python -m recipes.lmms_eval.run`.

lmms-eval pins packages that mmlm has newer, so that it gets an environment of its own, once, in `--environment`. It
speaks to the server as to OpenAI's (`--model async_openai`), and asks questions about drawn scenes (`scenes.yaml`).
The same questions are answered without server and harness as well; the difference is what both of these change.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import subprocess
import sys
import time
import urllib.request
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from recipes.nano.questions import questions
from recipes.nano.scenes import draw, sample_scene, unseen_layout

HERE, ROOT = Path(__file__).resolve().parent, Path(__file__).resolve().parents[2]
PACKAGES = ("lmms-eval==0.7.3", "filelock<4")  # which it imports privately, and which moved in 4
PATIENCE = 120  # seconds until the server answers


def python_of(environment: Path) -> Path:
    """The interpreter of lmms-eval's environment, which is made if there is none."""
    python = environment / "bin/python"
    if not (environment / "done").exists():
        if environment.exists() and not (environment / "bin/python").exists() and any(environment.iterdir()):
            raise SystemExit(f"{environment} holds something else: give another --environment")
        print(f"installing {', '.join(PACKAGES)} into {environment}, some GB and minutes", flush=True)
        venv.create(environment, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
        (environment / "done").touch()
    return python


def write_questions(folder: Path, count: int, seed: int) -> list[dict[str, str]]:
    """Writes pictures of unseen layouts and `questions.jsonl`, one question about each."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(count):
        rng = random.Random(f"{seed} lmms-eval {index}")
        scene = sample_scene(rng, unseen_layout)
        asked = rng.choice(questions(scene, rng))
        picture = folder / f"{index}.png"
        draw(scene, rng).save(picture)
        lines.append({"image": str(picture), "question": asked.question, "answer": asked.answer})
    (folder / "questions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return lines


@contextmanager
def served(model: str, log: Path) -> Iterator[str]:
    """A server of a model, as lmms-eval is told of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with log.open("w") as said:
        server = subprocess.Popen(
            [sys.executable, "-m", "mmlm", "serve", model, "--port", str(port)], stdout=said, stderr=said
        )
    try:
        for _ in range(PATIENCE):
            try:
                with urllib.request.urlopen(f"{address}/v1/models", timeout=5) as answer:
                    name = json.load(answer)["data"][0]["id"]
                break
            except OSError:
                if server.poll() is not None:
                    raise RuntimeError(f"the server ended: see {log}") from None
                time.sleep(1)
        else:
            raise RuntimeError(f"the server did not answer in {PATIENCE} s: see {log}")
        yield f"model_version={name},base_url={address}/v1,api_key=none"
    finally:
        server.terminate()
        server.wait()


def exact(model: str, asked: Sequence[dict[str, str]]) -> float:
    """The share of answers that are right, without the server; as in the task, whatever their case."""
    import mmlm

    loaded = mmlm.load(model, codecs=None)
    said = loaded.answer([one["image"] for one in asked], [one["question"] for one in asked], max_new_tokens=16)
    assert isinstance(said, list), "several questions give several answers"
    right = (str(own).strip().lower() == one["answer"].lower() for own, one in zip(said, asked, strict=True))
    return sum(right) / len(asked)


def judged(python: Path, server: str, folder: Path) -> float:
    """The exact match that lmms-eval prints and writes."""
    results = folder / "results"
    before = set(results.rglob("*_results.json"))
    subprocess.run(
        [
            python.absolute(), "-m", "lmms_eval",
            "--model", "async_openai", "--model_args", server,
            "--tasks", "mmlm_scenes", "--include_path", str(HERE), "--batch_size", "1", "--log_samples",
            "--output_path", str(results),
        ],
        check=True, cwd=folder,
    )  # fmt: skip
    (written,) = set(results.rglob("*_results.json")) - before
    return json.loads(written.read_text())["results"]["mmlm_scenes"]["exact_match,none"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="a preset or a folder")
    parser.add_argument("--output", type=Path, default=ROOT / "runs/lmms-eval")
    parser.add_argument("--environment", type=Path, default=ROOT / ".cache/lmms-eval")
    parser.add_argument("--count", type=int, default=200, help="scenes with one question each")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    python, folder = python_of(args.environment), args.output.absolute()
    asked = write_questions(folder, args.count, args.seed)
    with served(args.model, folder / "server.log") as server:
        share = judged(python, server, folder)
    print(f"| {args.count} questions about scenes | exact match |\n| --- | --- |")
    print(f"| lmms-eval, through the server | {share:.1%} |")
    print(f"| `model.answer` | {exact(args.model, asked):.1%} |")


if __name__ == "__main__":
    main()
