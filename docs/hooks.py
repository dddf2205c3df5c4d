"""What the site adds to its pages: tables of settings, the command line's help, and pages whose text lies elsewhere.

A line `<!-- settings: module.Class -->` becomes a table of the fields that this dataclass declares, and
`<!-- all settings: module.Class -->` of those that it inherits as well. `<!-- command line -->` becomes the help of
every verb, and `<!-- public names -->` what `import mmlm` gives. All are made from the code when the site is built, so
that they cannot go stale.
"""

import dataclasses
import importlib
import inspect
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "mmlm/nano/MODEL_CARD.md": "model-card.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


# ---- hooks of mkdocs


def on_files(files: Any, config: Any) -> None:
    """Adds the pages of ELSEWHERE."""
    from mkdocs.structure.files import File

    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fills in the tables and the command line, and points links at the pages of ELSEWHERE."""
    uri = page.file.src_uri
    mark = re.compile(r"<!-- (all )?settings: ([\w.]+)\.(\w+) -->")
    markdown = mark.sub(lambda m: settings_table(load(m[2], m[3]), inherited=bool(m[1])), markdown)
    for mark, text in (("<!-- command line -->", command_line), ("<!-- public names -->", public_names)):
        if mark in markdown:
            markdown = markdown.replace(mark, text())
    return re.sub(r"\]\(([^):#]+\.md)(#[\w-]+)?\)", lambda m: f"]({site_link(m[1], uri)}{m[2] or ''})", markdown)


def site_link(link: str, page: str) -> str:
    """A link of a page, relative to where its text lies in the repository, as a link between pages of the site."""
    source = next((source for source, name in ELSEWHERE.items() if name == page), f"docs/{page}")
    target = os.path.normpath(PurePosixPath(source).parent / link)
    target = ELSEWHERE.get(target, target.removeprefix("docs/"))
    return os.path.relpath(target, PurePosixPath(page).parent)


# ---- settings


def load(module: str, name: str) -> type:
    """A class by its module and name."""
    return getattr(importlib.import_module(module), name)


def settings_table(cls: type, inherited: bool = False) -> str:
    """The fields of a dataclass with type, default and what docstrings say of each, below the rest of its docstring.

    inherited: with the fields of its base classes; else only those that it declares itself.
    """
    fields = dataclasses.fields(cls)
    own = [f for f in fields if inherited or f.name in vars(cls).get("__annotations__", {})]
    told = [described(base, [f.name for f in fields]) for base in cls.__mro__ if dataclasses.is_dataclass(base)]
    prose, meanings = told[0][0], {name: text for _, texts in reversed(told) for name, text in texts.items()}
    rows = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    for field in own:
        kind = field.type.__name__ if type(field.type) is type else str(field.type)
        cells = (f"`{field.name}`", f"`{kind}`", default_of(field), meanings.get(field.name, ""))
        rows.append("| " + " | ".join(cells) + " |")
    return f"{prose}\n\n" + "\n".join(rows)


def default_of(field: dataclasses.Field) -> str:
    """A field's default as code; the class's name where it is a dataclass with settings of its own."""
    value = field.default
    if value is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING or value == "???":  # omegaconf's mark of a mandatory key
        return "required"
    if not dataclasses.is_dataclass(value):
        return f"`{value!r}`"
    plain = type(value)()
    names = [f.name for f in dataclasses.fields(value) if getattr(value, f.name) != getattr(plain, f.name)]
    changed = [f"{name}={getattr(value, name)!r}" for name in names]
    return f"`{type(value).__name__}({', '.join(changed)})`"


def described(cls: type, names: list[str]) -> tuple[str, dict[str, str]]:
    """A class's docstring without what it says of single fields, and that by field; else a comment beside the field."""
    from mmlm.cli.keys import entries

    prose, meanings = entries(cls.__doc__ or "", names)
    for key, comment in re.findall(r"^    (\w+):[^#\n]*  # ([^\n]*)$", inspect.getsource(cls), re.MULTILINE):
        meanings.setdefault(key, comment)
    return prose, meanings


# ---- the command line


def command_line() -> str:
    """The help of every verb."""
    os.environ["COLUMNS"] = "100"
    from mmlm.cli import build_parser

    verbs = next(action for action in build_parser()._actions if isinstance(action.choices, dict))
    return "\n\n".join(f"## mmlm {name}\n\n```text\n{verb.format_help()}```" for name, verb in verbs.choices.items())


# ---- public names


def public_names() -> str:
    """A table of what `import mmlm` gives, each name with a link to where it is defined and its purpose."""
    import mmlm

    rows = ["| name | purpose |", "| --- | --- |"]
    for name in mmlm.__all__:
        value = getattr(mmlm, name)
        text = inspect.getdoc(value) or documented_value(mmlm._HOME[name], name)
        purpose = re.split(r"(?<=[.:;]) |\n\n", text)[0].rstrip(":;")
        home = value.__module__ if hasattr(value, "__qualname__") else mmlm._HOME[name]
        rows.append(f"| [`mmlm.{name}`][{home}.{name}] | {' '.join(purpose.split())} |")
    return "\n".join(rows)


def documented_value(module: str, name: str) -> str:
    """The string that stands below a module's value and describes it."""
    source = inspect.getsource(importlib.import_module(module))
    return " ".join(re.search(rf'^{name}\b[^\n]*\n"""(.*?)"""', source, re.MULTILINE | re.DOTALL)[1].split())


# ---- docstrings


class FieldLists(griffe.Extension):
    """Docstrings write `name: what it is` on lines of their own; on the site these become a list."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Parameters of a function."""
        as_list(func, [parameter.name for parameter in func.parameters])

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Fields of a class, and what its constructor takes."""
        as_list(cls, [*cls.members, *(parameter.name for parameter in cls.parameters)])


def as_list(documented: griffe.Object, names: list[str]) -> None:
    """Turns the lines `name, name: text` of a docstring, each with its indented continuation, into list items."""
    if documented.docstring is None or not names:
        return
    known = {name.lstrip("*") for name in names}
    lines, listing = [], False
    for line in documented.docstring.value.splitlines():
        match = re.match(r"`?(\w+`?(?:, `?\w+`?)*): ", line)
        if match and known >= set(re.findall(r"\w+", match[1])):
            named = ", ".join(f"`{name}`" for name in re.findall(r"\w+", match[1]))
            lines += [""] * (not listing) + [f"- {named}: {line[match.end() :]}"]
            listing = True
        else:
            if listing and line and not line.startswith(" "):
                lines.append("")
            listing = listing and (not line or line.startswith(" "))
            lines.append(line)
    documented.docstring.value = "\n".join(lines)
