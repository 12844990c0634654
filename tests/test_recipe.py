import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.errors import RecipeError, UnknownName
from mobilenets.recipe import PRESETS, Augment, Freeze, Recipe, from_json, preset, with_settings


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name):
    assert from_json(json.loads(json.dumps(preset(name).to_json()))) == preset(name)


def test_digits_are_never_mirrored():
    assert not preset("digits").augment.flip


def test_a_setting_reaches_inside():
    changed = with_settings(
        preset("finetune"),
        {"rate": "1", "augment.flip": "false", "augment.crop_area": "[0.5, 1]", "epochs": "null"},
    )
    assert (changed.rate, changed.augment.flip, changed.augment.crop_area, changed.epochs) == (
        1.0,
        False,
        (0.5, 1.0),
        None,
    )


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("rat", "1", "Did you mean 'rate'?"),
        ("augment.flp", "true", "augment.flip"),
        ("augment", "1", "unknown recipe setting"),
        ("extra.flip", "1", "unknown recipe setting"),
    ],
)
def test_a_misspelt_setting_is_named(setting, value, words):
    with pytest.raises(UnknownName, match="unknown recipe setting") as error:
        with_settings(preset("scratch"), {setting: value})
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("rate", "fast", "it takes a number"),
        ("rate", "NaN", "must lie between"),
        ("rate", "-1", "must lie between"),
        ("optimizer", "sgd", "accepted: adamw, rmsprop"),
        ("batch_size", "1", "must lie between"),
        ("batch_size", "1.5", "a whole number"),
        ("epochs", "true", "a whole number"),
        ("augment.crop_area", "[1]", "a list of 2 numbers"),
        ("augment.crop_area", "[0.9, 0.1]", "low ≤ high"),
        ("augment.flip", "1", "true or false"),
        ("label_smoothing", "2", "must lie between"),
    ],
)
def test_a_wrong_value_is_refused(setting, value, words):
    with pytest.raises(RecipeError) as error:
        with_settings(preset("scratch"), {setting: value})
    assert words in str(error.value)


def test_nothing_to_train_is_refused():
    with pytest.raises(RecipeError, match="nothing would be trained"):
        Recipe(epochs=0)


@pytest.mark.parametrize("value", [[], 3, "x", {"augment": 3}, {"name": 3}])
def test_json_that_is_no_recipe_is_refused(value):
    with pytest.raises(RecipeError):
        from_json(value)


@given(st.integers(1, 10**7))
def test_epochs_follow_the_number_of_pictures(pictures):
    epochs = Recipe().epochs_for(pictures)
    assert 3 <= epochs <= 200
    assert Recipe(epochs=7).epochs_for(pictures) == 7


def test_every_field_is_documented_and_typed():
    for cls in (Recipe, Augment, Freeze):
        assert dataclasses.fields(cls)
        assert cls.__doc__
