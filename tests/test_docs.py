"""What the documentation tells a reader to type works, and what the site makes from the code agrees with it."""

import dataclasses
import importlib.util
import json
import re
import runpy
import shlex
import typing
from pathlib import Path

import pytest

from mmlm.cli import main
from mmlm.data import read_records

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GUIDES = ["index.md", *sorted(f"howto/{path.name}" for path in (DOCS / "howto").glob("*.md"))]
BLOCK = re.compile(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(language, title, text) of the fenced blocks of a page; runs are cut to two steps."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(kind, title, re.sub(r"\bsteps([=:] ?)\d+", r"steps\g<1>2", text)) for kind, title, text in found]


@pytest.mark.parametrize("name", [*(f"docs/{guide}" for guide in GUIDES), "README.md"])
def test_a_page_can_be_followed_from_top_to_bottom(name, nano_folder, tmp_path, monkeypatch):
    page = ROOT / name
    monkeypatch.chdir(tmp_path)
    for folder in ("docs", "demos"):
        Path(folder).symlink_to(ROOT / folder)
    Path("runs").mkdir()
    names: dict = {}
    for kind, title, text in blocks(page):
        code = compile(text, name, "exec") if kind == "python" else None
        if title.startswith("needs "):
            continue
        if code is not None:
            exec(code, names)
        elif kind == "yaml":
            Path(title).write_text(text)
        elif name != "README.md":  # whose command lines tests/test_readme.py parses: they are many
            for line in (line for line in text.splitlines() if line.startswith("mmlm ")):
                assert main(shlex.split(line)[1:]) == 0, line


def test_demonstrations_are_shown_by_the_demo_that_a_how_to_names(tmp_path, monkeypatch, capsys):
    assert "`python demos/few_shot.py`" in (DOCS / "howto/caption.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "demos")
    runpy.run_path(str(ROOT / "demos/few_shot.py"), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 12 and all(len(line.split(": ", 1)[1]) > 0 for line in said)
    assert [line.split()[0] for line in said[:4]] == ["nearest:", "0", "2", "4"]


def test_the_data_formats_page_shows_records_that_are_read(tmp_path):
    lines = next(text for kind, _, text in blocks(DOCS / "data.md") if kind == "json")
    for line in lines.splitlines():
        for path in (value for key, value in json.loads(line).items() if key in ("image", "audio")):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).touch()
    (tmp_path / "pairs.jsonl").write_text(lines)
    records = read_records(tmp_path / "pairs.jsonl")
    assert [len(record.captions) for record in records] == [1, 0, 0, 0, 0]
    assert [len(record.qa) for record in records] == [0, 1, 0, 1, 0]
    assert [record.transcript for record in records] == [None, None, "turn the lights on", None, "what is that?"]
    assert [record.reply for record in records] == [None] * 4 + ["a kite"]


def test_every_room_has_a_page_and_every_page_a_place_in_the_menu():
    rooms = {path.parent.name for path in (ROOT / "mmlm").glob("*/__init__.py")}
    pages = {path.stem for path in (DOCS / "reference").glob("*.md")}
    assert pages == rooms | {"mmlm", "encoders", "decoders"}
    menu = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert menu == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} | set(hooks().ELSEWHERE.values())


def test_every_setting_of_every_recipe_is_on_the_settings_page():
    pytest.importorskip("omegaconf")
    from mmlm.training.align_recipe import DistillRecipe, GrpoRecipe, PpoRecipe, PreferenceRecipe, RewardRecipe
    from mmlm.training.recipe import CodecRecipe, Recipe, WritingRecipe

    marks = re.findall(r"<!-- (all )?settings: ([\w.]+) -->", (DOCS / "settings.md").read_text(encoding="utf-8"))
    shown, whole = {name for _, name in marks}, {name for inherited, name in marks if inherited}
    unseen, known = [Recipe, CodecRecipe, WritingRecipe, PreferenceRecipe, RewardRecipe], set()
    unseen += [GrpoRecipe, PpoRecipe, DistillRecipe]
    while unseen:
        cls = unseen.pop()
        known.add(name := f"{cls.__module__}.{cls.__qualname__}")
        unseen += [base for base in cls.__bases__ if dataclasses.is_dataclass(base) and name not in whole]
        for kind in typing.get_type_hints(cls).values():
            unseen += [part for part in (kind, *getattr(kind, "__args__", ())) if dataclasses.is_dataclass(part)]
    assert shown == known | {"mmlm.generation.options.GenerationOptions"}


@dataclasses.dataclass
class Sizes:
    """Sizes of a thing.

    width: of the thing,
        in pixels. height, depth: the rest.
    """

    width: int | None = None
    height: int = 3
    depth: int = 4
    name: str = "thing"  # shown to users
    parts: list = dataclasses.field(default_factory=list)
    owner: str = "???"


@dataclasses.dataclass
class ColoredSizes(Sizes):
    """More sizes.

    color: its color. Of others:
    """

    width: int = 8
    color: str = "red"


def test_a_table_of_settings():
    expected = """Sizes of a thing.

| setting | type | default | meaning |
| --- | --- | --- | --- |
| `width` | `int | None` | `None` | of the thing, in pixels. |
| `height` | `int` | `3` | the rest. |
| `depth` | `int` | `4` | the rest. |
| `name` | `str` | `'thing'` | shown to users |
| `parts` | `list` | `[]` |  |
| `owner` | `str` | required |  |"""
    assert hooks().settings_table(Sizes) == expected
    colored = ["| `width` | `int` | `8` | of the thing, in pixels. |", "| `color` | `str` | `'red'` | its color. |"]
    assert hooks().settings_table(ColoredSizes).splitlines()[4:] == colored
    inherited = hooks().settings_table(ColoredSizes, inherited=True).splitlines()
    assert inherited == ["More sizes.", *expected.splitlines()[1:4], colored[0], *expected.splitlines()[5:], colored[1]]


@pytest.mark.parametrize(
    ("link", "page", "leads_to"),
    [
        ("../mmlm/nano/MODEL_CARD.md", "nano.md", "model-card.md"),
        ("../../docs/nano.md", "model-card.md", "nano.md"),
        ("docs/architecture.md", "contributing.md", "architecture.md"),
        ("CHANGELOG.md", "contributing.md", "changelog.md"),
        ("../speed.md", "howto/pack.md", "../speed.md"),
        ("howto/draw.md", "index.md", "howto/draw.md"),
    ],
)
def test_links_between_pages_of_the_site(link, page, leads_to):
    assert hooks().site_link(link, page) == leads_to


def test_fields_in_docstrings_become_lists():
    griffe = pytest.importorskip("griffe")
    text = "A purpose.\n\nsize: of it,\n    in pixels.\nseed, rate: two more.\nErrors: none.\n"
    names = [griffe.Parameter(name) for name in ("size", "seed", "rate")]
    function = griffe.Function("f", parameters=griffe.Parameters(*names), docstring=griffe.Docstring(text))
    hooks().FieldLists().on_function(func=function)
    assert function.docstring.value.splitlines() == [
        "A purpose.", "", "", "- `size`: of it,", "    in pixels.", "- `seed`, `rate`: two more.", "", "Errors: none.",
    ]  # fmt: skip


def hooks():
    """docs/hooks.py, which is no module of the package."""
    pytest.importorskip("griffe")
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
