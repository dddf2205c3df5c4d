"""What the README tells a new user to type works; tests/test_docs.py runs its Python."""

import re
import shlex
from pathlib import Path

import pytest

from mmlm.cli import build_parser
from mmlm.training import load_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "mmlm/nano/MODEL_CARD.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))


def test_every_command_line_is_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"^```(.*?)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    commands = [
        line for language, block in blocks if not language for line in block.splitlines() if line.startswith("mmlm ")
    ]
    verbs = set("caption answer generate transcribe ask chat draw speak train eval models inspect serve ui".split())
    assert {shlex.split(line)[1] for line in commands} == verbs
    for line in commands:
        build_parser().parse_args(shlex.split(line)[1:])


def test_the_recipe_it_names_is_one():
    recipe = load_recipe(ROOT / "demos/recipe.yaml", ["steps=100", "output=runs/first"])
    assert recipe.model.load == "nano" and recipe.steps == 100 and recipe.precision == "auto"


def test_make_targets_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in ("README.md", "CONTRIBUTING.md", "docs/index.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert set(re.findall(r"^make (\w+)", text, re.MULTILINE)) <= set(targets)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    # Files in backquotes, where they are written with a folder.
    folders = "benchmarks|decoders|demos|docs|encoders|mmlm|recipes|tests"
    links += [str(ROOT / name) for name in re.findall(rf"`((?:{folders})/[\w/.]+\.\w+)`", text)]
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_what_pages_import_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for line in re.findall(r"^(?:from (?:mmlm|encoders|decoders)[\w.]* )?import [\w., ]+$", text, re.MULTILINE):
        exec(line, {})


def test_tests_that_pages_name_are_there():
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", (ROOT / page).read_text(encoding="utf-8"))}
    assert named <= set(re.findall(r"def (test_\w+)", tests)) and named
