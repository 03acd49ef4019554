"""What may be drawn: read, checked, drawn."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import TINY

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.optimizers import SGD
from flaxcnn.studies.space import Choices, Range, check_space, parse_space, read_space

FILE = """
batch_size = [32, 64]
learning_rate = { low = 1e-4, high = 1e-1, log = true }
optimizer.momentum = { low = 0.0, high = 0.9, step = 0.1 }
[epochs]
low = 2
high = 5
"""


def test_a_file_of_every_kind(tmp_path):
    (tmp_path / "space.toml").write_text(FILE)
    assert read_space(tmp_path / "space.toml") == {
        "batch_size": Choices((32, 64)),
        "learning_rate": Range(1e-4, 1e-1, log=True),
        "optimizer.momentum": Range(0.0, 0.9, 0.1),
        "epochs": Range(2, 5),
    }


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (
            {"epochs": 3},
            r"space\.epochs must be a list of choices or a table with low and high \(got 3\)",
        ),
        ({"epochs": []}, r"space\.epochs must be a list of choices .*\(got \[\]\)"),
        ({"epochs": [1, 1]}, "must have distinct choices"),
        ({"epochs": {"low": 1}}, r"space\.epochs\.high is missing"),
        (
            {"epochs": {"low": 1, "high": "x"}},
            r"space\.epochs\.high must be a finite number \(got 'x'",
        ),
        (
            {"epochs": {"low": 1, "hihg": 2}},
            r"unknown key space\.epochs\.hihg; .*did you mean 'high'",
        ),
        ({"epochs": {"low": 2, "high": 2}}, "low must be below high"),
        (
            {"epochs": {"low": True, "high": 2}},
            r"space\.epochs\.low must be a finite number \(got True",
        ),
        (
            {"epochs": {"low": 1, "high": float("nan")}},
            r"space\.epochs\.high must be a finite number \(got nan",
        ),
        (
            {"epochs": {"low": 1, "high": 9, "step": 0.5}},
            r"step must be an integer of at least 1 \(got 0\.5",
        ),
        ({"epochs": {"low": 0, "high": 9, "log": True}}, "needs low above 0"),
        ({"epochs": {"low": 1, "high": 9, "log": "yes"}}, r"log must be true or false \(got 'yes'"),
        ({"epochs": {"choices": [1], "low": 1}}, "must have choices or a range, not both"),
        ({"epochs": {}}, r"space\.epochs\.low is missing"),
    ],
)
def test_spaces_that_are_none(plain, message):
    with pytest.raises(ConfigError, match=message):
        parse_space(plain)


@pytest.mark.parametrize("text", ["epochs = ", "[1]", None], ids=["toml", "list", "missing"])
def test_files_that_are_none(tmp_path, text):
    path = tmp_path / ("space.json" if text == "[1]" else "space.toml")
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match="--space "):
        read_space(path)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({}, "space is empty"),
        ({"learning_rat": [1]}, "unknown setting learning_rat; .*did you mean 'learning_rate'"),
        ({"batch_size": {"low": 0, "high": 8}}, "space: batch_size must be from 1 to"),
        ({"seed": [1, 2]}, "set seeds with --seeds"),
        ({"split_seed": [1, 2]}, "space.split_seed: cannot be drawn, .*the same rows"),
        ({"resize.height": [8, 9]}, "space.resize.height: cannot be drawn"),
        ({"dataset": ["digits", "mnist"]}, "space.dataset: cannot be drawn"),
        ({"optimizer.momentum": [0.5]}, "space: unknown setting optimizer.momentum"),
    ],
)
def test_spaces_that_do_not_fit_the_recipe(plain, message):
    with pytest.raises(ConfigError, match=message):
        check_space(parse_space(plain), TINY)


def test_a_setting_of_an_optimizer_that_may_be_drawn():
    check_space(parse_space({"optimizer": ["adam", "sgd"], "optimizer.momentum": [0.5]}), TINY)
    check_space(
        parse_space({"optimizer.momentum": [0.5]}), dataclasses.replace(TINY, optimizer=SGD())
    )


@given(
    st.floats(-1e6, 1e6), st.floats(1e-9, 1e6), st.floats(0, 1), st.sampled_from([int, float])
)  # fmt: skip
def test_rounding_stays_within_the_range(low, width, share, kind):
    low, high = kind(low), kind(low + width) + kind(1)
    axis = Range(low, high)
    drawn = axis.rounded(low + share * (high - low))
    assert low <= drawn <= high
    assert isinstance(drawn, int) == (kind is int)


@given(st.dictionaries(st.sampled_from(["epochs", "batch_size"]), st.one_of(
    st.lists(st.integers(1, 99), min_size=1, unique=True).map(lambda v: Choices(tuple(v))),
    st.tuples(st.integers(1, 9), st.integers(10, 99), st.booleans()).map(
        lambda v: Range(v[0], v[1], log=v[2])),
)))  # fmt: skip
def test_a_space_survives_json(space):
    plain = {key: axis.to_dict() for key, axis in space.items()}
    assert parse_space(json.loads(json.dumps(plain))) == space
