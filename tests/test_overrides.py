"""`key=value` on top of a recipe: what is written is what is meant."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlm.cli import main
from mmlm.training import load_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text("model: nano\ndata: pairs.jsonl\nheld_out: dev.jsonl\noutput: runs/first\nsteps: 4\n")
    return path


@pytest.mark.parametrize(
    "written, read",
    [
        ("runs/a [x] #1", "runs/a [x] #1"),  # of YAML, "runs/a [x]"
        ("1.10", "1.10"),
        ("2026_01", "2026_01"),
        ("on", "on"),
        ("a: b", "a: b"),
        ("[x] b", "[x] b"),
        ("{x} b", "{x} b"),
        ("x=y", "x=y"),
        ("'runs/x #1'", "runs/x #1"),  # quoted as YAML
    ],
)
def test_a_path_is_what_is_written(recipe, written, read):
    assert load_recipe(recipe, [f"output={written}"]).output == read
    assert load_recipe(recipe, [f"data={written}"]).data == read
    assert load_recipe(recipe, [f"model.load={written}"]).model.load == read
    assert load_recipe(recipe, [f"model={written}"]).model.load == read


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1).filter(lambda text: text[0] not in "'\"[{"))
def test_any_text_is_a_path(recipe, text):
    if "$" not in text and "\\" not in text and text not in ("~", "null"):
        assert load_recipe(recipe, [f"output={text} {text}"]).output == f"{text} {text}"


def test_other_values_are_yaml(recipe):
    found = load_recipe(
        recipe, ["steps=40", "learning_rate=1e-3", "betas=[0.8,0.9]", "resume=false", "held_out=null",
                 "data=[a.tar, 'b #1.tar']"],
    )  # fmt: skip
    assert (found.steps, found.learning_rate, found.betas, found.resume) == (40, 1e-3, (0.8, 0.9), False)
    assert found.held_out is None and found.data == ["a.tar", "b #1.tar"]


@pytest.mark.parametrize("written", ["", "~", "null", "Null", "NULL"])
def test_null_is_that_of_yaml_for_paths_too(recipe, written):
    assert yaml.safe_load(f"held_out: {written}") == {"held_out": load_recipe(recipe, [f"held_out={written}"]).held_out}


def test_what_init_writes_has_the_paths_that_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, output = "pairs #1: [x].jsonl", "runs/a: #1"
    (tmp_path / data).write_text('{"image": "1.png", "caption": "a circle"}\n')
    assert main(["init", "mine.yaml", "--data", data, "--output", output]) == 0
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["output"] == output
    found = load_recipe(tmp_path / "mine.yaml")
    assert found.data == data and found.output == output


@pytest.mark.parametrize(
    "override, named",
    [
        ("output", "not key=value"),
        ("steps=x", "steps"),
        ("steps=[3", "YAML|pars"),
        ("objective=null", "objective.kind must be"),
        ("objective=[dpo]", "objective.kind must be"),
        ("objective={kind: [dpo]}", "objective.kind must be"),
    ],  # fmt: skip
)
def test_what_cannot_be_read_is_named(recipe, override, named):
    with pytest.raises(ValueError, match=named):
        load_recipe(recipe, [override])
