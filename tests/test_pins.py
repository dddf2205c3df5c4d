"""The pinned versions fit every Python that the project promises to run on."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LEAST = re.fullmatch(
    r">=(\d+\.\d+)", tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
)


def test_pinned_packages_install_on_the_first_release_of_the_oldest_python():
    """Debian's 3.11 is 3.11.2: a package that wants 3.11.5 leaves it without any of them."""
    assert LEAST is not None
    pinned = {
        canonicalize_name(line.split("==")[0].split("[")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    found = {canonicalize_name(one.name): one for one in metadata.distributions()}
    there = pinned & found.keys()
    if len(there) < len(pinned) / 2:
        pytest.skip("needs the pinned packages: make setup")
    wants = {name: found[name].metadata.get("Requires-Python") for name in sorted(there)}
    refused = {name: own for name, own in wants.items() if own and f"{LEAST[1]}.0" not in SpecifierSet(own)}
    assert not refused
