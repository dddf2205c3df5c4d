"""The house: which module may import which, what stays off the command line, how long files and functions may be."""

import ast
import graphlib
import io
import json
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Rooms from the ground up. A room may import those before it; rooms that share a line may not import each other.
ORDER = {
    "mmlm": [
        ["_lazy", "remedies"], ["prompting"], ["data"], ["model"], ["generation"], ["acceleration"], ["retrieval"],
        ["tasks"], ["reasoning"], ["assembly"], ["serving"], ["jobs"], ["training"], ["evaluation"], ["cli"],
    ],
    "encoders": [
        ["files", "texts", "hub"], ["sizes", "model_files"], ["gguf", "media", "patterns", "pickles", "settings"],
        ["tokenizer_rules", "weights"], ["clip_settings"], ["guarded"],
        ["base", "clip_forms", "whisper_forms"], ["clip", "whisper"],
        ["transcription"],
    ],
    "decoders": [["values", "files"], ["folder"], ["codecs"], ["diffusion"]],
}  # fmt: skip
# Packages, or modules of them, that a package may import
USES = {
    "mmlm": {"encoders", "decoders"},
    "encoders": set(),
    "decoders": {"encoders.base", "encoders.model_files", "encoders.guarded", "encoders.sizes"},
}
DOORS = {"mmlm", "mmlm.__main__"}  # they hand names on, from any room
HEAVY = {
    "PIL", "av", "diffusers", "fastapi", "huggingface_hub", "matplotlib", "mcp", "numpy", "omegaconf", "open_clip",
    "prometheus_client", "pydantic", "safetensors", "soundfile", "soxr", "starlette", "tokenizers", "torch",
    "torchaudio", "transformers", "uvicorn", "whisper",
}  # fmt: skip
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 300, 60

Graph = dict[str, set[str]]


def modules(root: Path, packages: Iterable[str]) -> dict[str, Path]:
    """Module name → file."""
    files = (file for package in packages for file in sorted((root / package).rglob("*.py")))
    named = {".".join(file.relative_to(root).with_suffix("").parts): file for file in files}
    return {name.removesuffix(".__init__"): file for name, file in named.items()}


def imported(tree: ast.Module, known: Iterable[str]) -> Iterator[str]:
    """The modules among `known` that a file imports anywhere: in functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in known else node.module for name in names if node.module in known)


def graph(root: Path, packages: Iterable[str]) -> Graph:
    files = modules(root, packages)
    drawn = {name: set(imported(ast.parse(file.read_text()), files)) for name, file in files.items()}
    return {name: targets - {name} for name, targets in drawn.items()} | {door: set() for door in DOORS & drawn.keys()}


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def between_rooms(arrows: Graph) -> Graph:
    rooms: Graph = {}
    for source, targets in arrows.items():
        rooms.setdefault(room(source), set()).update({room(target) for target in targets} - {room(source)})
    return rooms


def circles(arrows: Graph) -> list[str]:
    """Circles, one shown for each arrow that must go, until none is left."""
    arrows, found = {name: set(targets) for name, targets in arrows.items()}, []
    while True:
        try:
            graphlib.TopologicalSorter(arrows).prepare()
            return found
        except graphlib.CycleError as error:
            circle = error.args[1][::-1]  # graphlib names the imported before the importer
            found.append(" imports ".join(circle))
            arrows[circle[0]].discard(circle[1])


def upwards(arrows: Graph) -> list[str]:
    """Imports of a room that is not before the importer's, or of a package that its package may not import."""
    faults = []
    for source, target in [(source, target) for source, targets in arrows.items() for target in sorted(targets)]:
        package, other = source.split(".")[0], target.split(".")[0]
        if package != other:
            allowed = bool({other, target} & USES[package])
        else:
            allowed = room(source) == room(target) or target in DOORS or floor(target) < floor(source)
        if not allowed:
            faults.append(f"{source} imports {target}")
    return faults


def floor(module: str) -> int:
    package, name = room(module).split(".")
    places = [place for place, names in enumerate(ORDER[package]) if name in names]
    assert places, f"{module}: say in ORDER where {package}.{name} stands"
    return places[0]


def too_long(file: Path) -> list[str]:
    """Of a file and its functions those over the limits, unless a comment with "long because" in it says why."""
    source = file.read_text()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    reasons = [token.start[0] for token in tokens if token.type == tokenize.COMMENT and "long because" in token.string]
    faults = []
    lines = len(source.splitlines())
    if lines > MOST_LINES and not reasons:
        faults.append(f"{file}: {lines} lines")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > MOST_LINES_OF_A_FUNCTION and not any(node.lineno <= at <= node.end_lineno for at in reasons):
                faults.append(f"{file}:{node.lineno} {node.name}: {lines} lines")
    return faults


# Loaders: of code, and of files that can hold code. They are called in GUARDED alone.
GUARDED = {"encoders/guarded.py"}
LOADERS = {
    "torch": {"load", "jit.load", "hub.load", "package.PackageImporter", "export.load"},
    "open_clip": {
        "create_model", "create_model_and_transforms", "create_model_from_pretrained", "get_tokenizer",
        "load_checkpoint", "load_openai_model", "factory.create_model", "factory.get_tokenizer",
    },
    "whisper": {"load_model"},
    "pickle": {"load", "loads", "Unpickler"},
    "yaml": {"load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"},
    "marshal": {"load", "loads"},
    "shelve": {"open"},
    "joblib": {"load"},
    "dill": {"load", "loads"},
    "timm": {"create_model"},
}  # fmt: skip
METHODS = {"from_pretrained", "from_config", "load_state_dict_from_url", "load_weights"}  # of whatever object
FLAGS = {"trust_remote_code": False, "weights_only": True, "allow_pickle": False}  # the only values they may have


def loads_files(file: Path) -> list[str]:
    """The calls in a file that load what may be code, and flags that would let code run."""
    tree, faults = ast.parse(file.read_text()), []
    names = {}  # in the file → its full name
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split(".")[0]: alias.asname and alias.name or alias.name.split(".")[0]
                      for alias in node.names}  # fmt: skip
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            first, *rest = ast.unparse(node).split(".")
            package, _, name = ".".join([names.get(first, ""), *rest]).partition(".")
            if name in LOADERS.get(package, ()) or (isinstance(node, ast.Attribute) and node.attr in METHODS):
                faults.append(f"{file}:{node.lineno} {ast.unparse(node)}")
        elif isinstance(node, ast.keyword) and node.arg in FLAGS:
            allowed = isinstance(node.value, ast.Constant) and node.value.value is FLAGS[node.arg]
            if not allowed:
                faults.append(f"{file}:{node.value.lineno} {node.arg}={ast.unparse(node.value)}")
    return faults


# The drawing itself, on a house drawn by hand


@pytest.fixture
def house(tmp_path) -> Path:
    files = {
        "mmlm/__init__.py": "from mmlm.cli import main",
        "mmlm/cli/__init__.py": "from mmlm import main\nfrom mmlm.data import Record",
        "mmlm/data/__init__.py": "from mmlm.data.records import Record",
        "mmlm/data/mixing.py": "import mmlm.model.config, encoders.clip",
        "mmlm/data/records.py": "import os\ndef late():\n    from mmlm.model import network",
        "mmlm/model/__init__.py": "",
        "mmlm/model/config.py": "",
        "mmlm/model/network.py": "if TYPE_CHECKING:\n    from mmlm.data.records import Record",
        "encoders/clip.py": "from encoders.whisper import load",
        "encoders/whisper.py": "import mmlm.model.config",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_import_is_an_arrow(house):
    assert graph(house, ["mmlm", "encoders"]) == {
        "mmlm": set(),
        "mmlm.cli": {"mmlm", "mmlm.data"},
        "mmlm.data": {"mmlm.data.records"},
        "mmlm.data.mixing": {"mmlm.model.config", "encoders.clip"},
        "mmlm.data.records": {"mmlm.model.network"},
        "mmlm.model": set(),
        "mmlm.model.config": set(),
        "mmlm.model.network": {"mmlm.data.records"},
        "encoders.clip": {"encoders.whisper"},
        "encoders.whisper": {"mmlm.model.config"},
    }


def test_faults_are_found_and_named(house):
    arrows = graph(house, ["mmlm", "encoders"])
    assert upwards(arrows) == [
        "mmlm.data.mixing imports mmlm.model.config",
        "mmlm.data.records imports mmlm.model.network",
        "encoders.clip imports encoders.whisper",
        "encoders.whisper imports mmlm.model.config",
    ]
    found = circles(arrows)
    assert len(found) == 1 and set(found[0].split(" imports ")) == {"mmlm.data.records", "mmlm.model.network"}
    arrows["mmlm.data.records"].clear()
    assert not circles(arrows)
    assert "mmlm.data imports mmlm.model imports mmlm.data" in circles(between_rooms(arrows))


def test_a_reason_makes_room(tmp_path):
    body = "    x = 1\n" * 60
    file = tmp_path / "a.py"
    file.write_text(f"def short():\n{body[:-10]}\ndef long():\n{body}")
    assert [fault.split(" ", 1)[1] for fault in too_long(file)] == ["long: 61 lines"]
    file.write_text(f"def long():\n    # long because it is a table\n{body}")
    assert not too_long(file)
    file.write_text("x = 1\n" * 301)
    assert len(too_long(file)) == 1


def test_a_loader_is_found_under_any_name(tmp_path):
    file = tmp_path / "a.py"
    lines = {
        "import torch\ntorch.load(x)": "torch.load",
        "import torch as t\nread = t.load": "t.load",
        "from torch import load as read\nread(x)": "read",
        "import torch\ntorch.jit.load(x)": "torch.jit.load",
        "def f():\n    import open_clip\n    open_clip.create_model('a')": "open_clip.create_model",
        "from open_clip import get_tokenizer\nget_tokenizer('a')": "get_tokenizer",
        "import whisper\nwhisper.load_model('a')": "whisper.load_model",
        "AutoModel.from_pretrained(x)": "AutoModel.from_pretrained",
        "partial(AutoModel.from_pretrained, x)": "AutoModel.from_pretrained",
        "import yaml\nyaml.load(x, Loader)": "yaml.load",
        "import pickle\npickle.loads(x)": "pickle.loads",
        "call(trust_remote_code=given)": "trust_remote_code=given",
        "call(weights_only=False)": "weights_only=False",
    }
    for source, found in lines.items():
        file.write_text(source)
        assert [fault.split(" ", 1)[1] for fault in loads_files(file)] == [found], source
    file.write_text(
        "from whisper.tokenizer import get_tokenizer\nget_tokenizer(True)\njson.load(x)\nfrom_pretrained(a)"
    )
    assert not loads_files(file)


# The house as it stands


def test_whatever_loads_files_goes_through_the_guarded_door(monkeypatch):
    monkeypatch.chdir(ROOT)
    files = [path.relative_to(ROOT) for path in modules(ROOT, [*ORDER, "recipes", "demos"]).values()]
    found = [fault for file in files if str(file) not in GUARDED for fault in loads_files(file)]
    assert not found, "call encoders/guarded.py instead:\n" + "\n".join(found)
    assert all(loads_files(Path(file)) for file in GUARDED)


@pytest.mark.parametrize("packages", [["mmlm", "encoders", "decoders"], ["recipes"]], ids=["packages", "recipes"])
def test_no_module_and_no_room_imports_itself_in_a_circle(packages):
    arrows = graph(ROOT, packages)
    found = circles(arrows) + circles(between_rooms(arrows))
    assert not found, "circles:\n" + "\n".join(found)


def test_imports_run_one_way():
    found = upwards(graph(ROOT, ORDER))
    assert not found, "against the order of rooms:\n" + "\n".join(found)


def test_the_command_line_opens_without_a_heavy_import():
    code = "import json, sys, mmlm, mmlm.cli; mmlm.cli.build_parser(); "
    code += "print(json.dumps(sorted(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(json.loads(shown))


def test_files_and_functions_are_short_or_say_why(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = [fault for file in modules(ROOT, ORDER).values() for fault in too_long(file.relative_to(ROOT))]
    assert not found, "too long:\n" + "\n".join(found)
