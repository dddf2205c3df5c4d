"""The container's files agree with each other and with the server that they start."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from mmlm.cli.command import build_parser
from mmlm.serving.app import ENDPOINTS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "demos/server"


def loaded(name):
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.fixture(scope="module")
def steps():
    """The steps of the Containerfile: its words, and the rest of each line."""
    text = re.sub(r"\\\n\s*", "", (FOLDER / "Containerfile").read_text())
    return [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]


def arguments_of(steps, command):
    """What the entry point gives to `mmlm serve`."""
    entry = json.loads(next(rest for word, rest in steps if word == "ENTRYPOINT"))
    assert entry[:2] == ["sh", "-c"] and entry[2].startswith("exec mmlm ") and entry[2].endswith(' "$@"')
    own = entry[2].removeprefix("exec mmlm ").removesuffix(' "$@"').replace('"$MMLM_DEVICE"', "cpu")
    return build_parser().parse_args([*own.split(), *command])


def test_the_server_takes_its_arguments(steps):
    default = json.loads(next(rest for word, rest in steps if word == "CMD"))
    for command in (default, loaded("compose.yaml")["services"]["server"]["command"]):
        args = arguments_of(steps, command)
        assert (args.verb, args.models, args.host, args.device) == ("serve", ["nano"], "0.0.0.0", "cpu")


def test_ports_and_paths_agree(steps):
    port = arguments_of(steps, ["nano"]).port
    assert next(rest for word, rest in steps if word == "EXPOSE") == str(port)
    health = next(rest for word, rest in steps if word == "HEALTHCHECK")
    assert f"127.0.0.1:{port}/health" in health
    composed = loaded("compose.yaml")["services"]
    assert composed["server"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    (job,) = loaded("prometheus.yml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"server:{port}"]}]
    paths = {route.path for endpoints in ENDPOINTS for route in endpoints.router.routes}
    assert {job["metrics_path"], "/health"} <= paths
    assert job["authorization"]["credentials_file"] == "/run/secrets/" + composed["prometheus"]["secrets"][0]
    assert loaded("compose.yaml")["secrets"][composed["prometheus"]["secrets"][0]] == {"environment": "MMLM_API_KEY"}
    assert "MMLM_API_KEY" in composed["server"]["environment"]


def test_what_is_built_is_there(steps):
    declared = {rest.split("=")[0] for word, rest in steps if word == "ARG"}
    for name in ("compose.yaml", "compose.gpu.yaml"):
        assert loaded(name)["services"]["server"]["build"]["args"].keys() <= declared
    build = loaded("compose.yaml")["services"]["server"]["build"]
    assert (FOLDER / build["context"]).resolve() == ROOT and ROOT / build["dockerfile"] == FOLDER / "Containerfile"
    copied = {one for word, rest in steps if word == "COPY" for one in rest.split()[:-1]}
    assert all((ROOT / one).exists() for one in copied)
    allowed = (FOLDER / "Containerfile.dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in allowed if line.startswith("!")} == copied
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    runs = " ".join(rest for word, rest in steps if word == "RUN")
    assert set(re.findall(r"\.\[(\w+)\]", runs)) == {"serve"} <= extras.keys()


def test_each_image_has_a_tag_and_writable_volumes_are_the_users(steps):
    images = [next(rest for word, rest in steps if word == "FROM")]
    images += [one["image"] for one in loaded("compose.yaml")["services"].values() if "image" in one]
    assert all(re.fullmatch(r"[a-z/]+:[\w.-]+", image) and not image.endswith(":latest") for image in images)
    assert next(rest for word, rest in steps if word == "USER") == "mmlm"
    places = [one.split(":") for one in loaded("compose.yaml")["services"]["server"]["volumes"]]
    runs = " ".join(rest for word, rest in steps if word == "RUN")
    assert all(place[2:] == ["ro"] or f"chown mmlm {place[1]}" in runs for place in places)
