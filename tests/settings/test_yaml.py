"""Tests of the files that recipes are read from, and of --set: by hand (exact sentences)."""

from __future__ import annotations

import pytest
import yaml

from medcontrast.errors import RecipeError
from medcontrast.settings import load_recipe
from medcontrast.settings.load import read_yaml


@pytest.fixture
def written(tiny, tmp_path):
    def write(text=None, **more):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tiny.recipe_tree("fba_net")) if text is None else text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: 2\na: 3\n", r"line 3: key 'a' stands here a second time; keep one\.$"),
        ("a:\n  b: 1\n  b: 1\n", r"line 3: key 'b' stands here a second time; keep one\.$"),
        ("1: 2\n", r"line 1: keys are words, but got 1\.$"),
        ("on: 2\n", r"line 1: keys are words, but got True\.$"),
        ("", r"a recipe is a mapping of keys to values, but this file holds NoneType\.$"),
        ("- 1\n", r"a recipe is a mapping of keys to values, but this file holds list\.$"),
        ("a: [1\n", r"not valid YAML: "),
        ("a: !!python/object/apply:os.system [ls]\n", r"not valid YAML: could not determine a constructor"),
        ("a: 2020-01-01\n", r"a recipe holds numbers, words, lists and yes/no alone"),
        ("train: {steps: .nan}\n", r"NaN and infinity are not settings; give a finite number\.$"),
    ],
)
def test_files_that_are_no_recipe(written, text, sentence):
    path = written(text)
    with pytest.raises(RecipeError, match=sentence) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_folders_and_bytes(tmp_path):
    with pytest.raises(
        RecipeError, match=r"there is no such recipe\. `medcontrast recipes` lists those that come along\.$"
    ):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="cannot be read as a recipe"):
        load_recipe(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(RecipeError, match="cannot be read as a recipe"):
        load_recipe(tmp_path / "bytes.yaml")


def test_set_goes_through_the_same_validation(written, tmp_path, monkeypatch):
    path = written()
    recipe = load_recipe(
        path, ["train.steps=9", "data.patch=[16, 32, 16]", "method.contrast.weight=0.25", "train.clip_norm=null"]
    )
    assert (recipe.train.steps, recipe.data.patch, recipe.method.contrast.weight) == (9, (16, 32, 16), 0.25)
    assert recipe.train.clip_norm is None
    with pytest.raises(RecipeError, match=r"  - train\.stesp: unknown key; did you mean 'steps'\?$"):
        load_recipe(path, ["train.stesp=9"])
    with pytest.raises(RecipeError, match=r"'1e-4' is read as a word, not a number; write 0\.0001$"):
        load_recipe(path, ["train.optimizer.lr=1e-4"])
    monkeypatch.chdir(tmp_path)
    assert load_recipe(path, ["data.root=there"]).data.root == str(tmp_path / "there")
    assert load_recipe(path, ["train.init_from=/a/b"]).train.init_from == "/a/b"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.steps", r"^--set train\.steps: expected KEY=VALUE, for example --set train\.steps=100\.$"),
        ("=3", r"^--set =3: expected KEY=VALUE, "),
        (".train=3", r"^--set \.train=3: expected KEY=VALUE, "),
        ("train..steps=3", r"^--set train\.\.steps=3: expected KEY=VALUE, "),
        ("train.steps=&a [*a]", r"a value holds itself, or is nested too deep\.$"),
        ("train.steps=" + 3000 * "[" + 3000 * "]", r"the value is not valid YAML: maximum recursion depth"),
        ("train.steps=1e400", r"'1e400' is read as a word, not a number; write it out in digits$"),
        ("train.steps=1e9999999999999999999", r"is read as a word, not a number; write it out in digits$"),
        ("train.steps=.inf", r"NaN and infinity are not settings; give a finite number\.$"),
        ("train.steps=.nan", r"NaN and infinity are not settings; give a finite number\.$"),
        ("train.steps=010", r"train\.steps: input should be a valid integer, but got '010'$"),
        ("train.steps=10:30", r"train\.steps: input should be a valid integer, but got '10:30'$"),
        ("train.steps=0x10", r"train\.steps: input should be a valid integer, but got '0x10'$"),
        ("train.optimizer.lr=1:30.5", r"train\.optimizer\.lr: input should be a valid number, but got '1:30\.5'$"),
        ("train.steps=[1", r"^--set train\.steps=\[1: the value is not valid YAML: "),
        ("seed.a=1", r"^--set seed\.a=1: 'seed' holds a value, not further keys\.$"),
        ("train.optimizer={lr: 1, lr: 2}", r"the value is not valid YAML: line 1: key 'lr' stands here a second time"),
    ],
)
def test_set_that_is_none(written, override, sentence):
    with pytest.raises(RecipeError, match=sentence):
        load_recipe(written(), [override])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("7", 7),
        ("+20", 20),
        ("-0", 0),
        ("1_000", 1000),
        ("1.5", 1.5),
        (".5", 0.5),
        ("2.", 2.0),
        ("1.0e-3", 0.001),
        ("-1.5E+2", -150.0),
        ("null", None),
        ("true", True),
        ("[1, 0.5]", [1, 0.5]),
    ],
)
def test_numbers_are_read_in_decimal_digits(tmp_path, text, value):
    (tmp_path / "x.yaml").write_text(f"a: {text}\n", encoding="utf-8")
    found = read_yaml(tmp_path / "x.yaml")["a"]
    assert found == value and type(found) is type(value)
