"""What the README tells a newcomer to type works."""

import re
import shlex
from pathlib import Path

import pytest

from mmlm.cli import build_parser
from mmlm.training import load_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NETWORK = re.compile(r"assemble\(|load_whisper\(")  # what fetches weights by name
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_offline_python_runs_as_written(nano_folder, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    Path("runs").mkdir(exist_ok=True)  # `make demo`, above it in the README, has made it
    offline = [code for kind, code in BLOCKS if kind == "python" and not NETWORK.search(code)]
    assert len(offline) == 4
    names: dict = {}
    for code in offline:
        exec(compile(code, "README.md", "exec"), names)
    written = capsys.readouterr().out.splitlines()
    assert len(written) >= 3 and all(written[:3])


def test_the_python_that_needs_the_network_is_valid():
    online = [code for kind, code in BLOCKS if kind == "python" and NETWORK.search(code)]
    assert len(online) == 2
    for code in online:
        compile(code, "README.md", "exec")


def test_every_command_line_is_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = [line for kind, code in BLOCKS if not kind for line in code.splitlines() if line.startswith("mmlm ")]
    verbs = {"caption", "answer", "generate", "transcribe", "ask", "draw", "speak", "train", "eval", "models"}
    assert {shlex.split(line)[1] for line in commands} == verbs
    for line in commands:
        build_parser().parse_args(shlex.split(line)[1:])


def test_the_recipe_it_names_is_one():
    recipe = load_recipe(ROOT / "demos/recipe.yaml", ["steps=100", "output=runs/first"])
    assert recipe.model.load == "nano" and recipe.steps == 100 and recipe.precision == "auto"


def test_make_targets_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make (\w+)", README, re.MULTILINE)) <= set(targets)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    # Files in backquotes, where they are written with a folder.
    links += [str(ROOT / name) for name in re.findall(r"`((?:tests|docs|demos|encoders|recipes)/[\w/.]+\.\w+)`", text)]
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert not missing
