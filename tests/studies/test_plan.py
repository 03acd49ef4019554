"""Which runs a study is made of."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.augment import Shift
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Dropout, Flatten
from flaxcnn.recipe.optimizers import SGD
from flaxcnn.studies.plan import parse_grid, parse_seeds, plan_runs, settings_of

BASE = Config(
    dataset="digits", layers=(Flatten(), Dropout(0.2), Dense(10)), optimizer=SGD(0.9), seed=7
)


def test_every_setting_with_every_seed():
    grid = {"learning_rate": [0.1, 0.01], "optimizer.momentum": [0.0, 0.5]}
    runs = plan_runs(BASE, [3, 4], grid)
    assert [(r.config.learning_rate, r.config.optimizer.momentum, r.seed) for r in runs] == [
        (rate, momentum, seed) for rate in (0.1, 0.01) for momentum in (0, 0.5) for seed in (3, 4)
    ]
    assert runs[0].label == "learning_rate=0.1, optimizer.momentum=0.0"
    assert len({run.key for run in runs}) == len(runs)
    assert all(run.config.seeds() == [run.seed] * 4 for run in runs)


def test_one_source_varies_and_the_others_keep_the_recipes_seed():
    runs = plan_runs(BASE, [1, 2], vary=["init", "dropout", "all"])
    assert [(run.vary, run.config.seeds()) for run in runs] == [
        ("init", [1, 7, 7, 7]), ("init", [2, 7, 7, 7]),
        ("dropout", [7, 7, 7, 1]), ("dropout", [7, 7, 7, 2]),
        ("all", [1] * 4), ("all", [2] * 4),
    ]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), [
    ({"seeds": []}, "seeds is empty"),
    ({"seeds": [1, 2, 1]}, r"seeds must be distinct, .*\(got 1 twice\)"),
    ({"seeds": [-1]}, "seeds must be integers from 0 .*got -1"),
    ({"seeds": [2**32]}, "got 4294967296"),
    ({"seeds": [0.5]}, "seeds must be integers .*got 0.5"),
    ({"grid": {"learning_rat": [1.0]}}, "did you mean 'learning_rate'"),
    ({"grid": {"optimizer.momentun": [0.5]}}, "did you mean 'momentum'"),
    ({"grid": {"learning_rate": ["fast"]}}, "learning_rate must be a number or none"),
    ({"grid": {"epochs": []}}, "grid.epochs must have at least one value"),
    ({"grid": {"seed": [1, 2]}}, "set seeds with --seeds or --vary"),
    ({"grid": {"epochs": [2, 2]}}, "epochs=2 twice"),
    ({"vary": ["innit"]}, "did you mean 'init'"),
    ({"vary": ["init", "init"]}, "vary has init twice"),
    ({"vary": ["augment"]}, "needs a recipe with augmentation"),
])  # fmt: skip
def test_plans_that_cannot_be(change, words):
    with pytest.raises(ConfigError, match=words):
        plan_runs(**{"base": BASE, "seeds": [0], **change})


def test_dropout_varies_only_where_there_is_some():
    none = dataclasses.replace(BASE, layers=(Flatten(), Dropout(0.0), Dense(10)))
    with pytest.raises(ConfigError, match="needs a recipe with dropout"):
        plan_runs(none, [0], vary=["dropout"])
    assert plan_runs(dataclasses.replace(BASE, augment=(Shift(),)), [0], vary=["augment"])


def test_grid_texts():
    assert parse_grid(["learning_rate=0.1, 0.01", "optimizer=sgd,adam", "patience=none,3"]) == {
        "learning_rate": [0.1, 0.01], "optimizer": ["sgd", "adam"], "patience": [None, 3],
    }  # fmt: skip
    assert parse_grid(['layers=[["a", 1], 2],[3]']) == {"layers": [[["a", 1], 2], [3]]}
    for text in ("learning_rate", "=1", "epochs="):
        with pytest.raises(ConfigError, match="write it as KEY=VALUE,VALUE"):
            parse_grid([text])
    with pytest.raises(ConfigError, match="given twice"):
        parse_grid(["epochs=1", "epochs=2"])


@given(st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(), min_size=1, max_size=4)))
def test_settings_are_all_combinations_once(grid):
    grid = {key: sorted(set(values)) for key, values in grid.items()}
    found = settings_of(grid)
    expected = 1
    for values in grid.values():
        expected *= len(values)
    assert len(found) == expected == len({tuple(setting.items()) for setting in found})


def test_seed_texts():
    assert parse_seeds("3", first=7) == [7, 8, 9]
    assert parse_seeds("3,5, 8", first=7) == [3, 5, 8]
    assert parse_seeds("3,", first=7) == [3]
    with pytest.raises(ConfigError, match="--seeds must be from 1 to 100000"):
        parse_seeds("0", first=0)
    for text in ("", "many", "1.5", ","):
        with pytest.raises(ConfigError, match="--seeds must be a number of seeds"):
            parse_seeds(text, first=0)


def test_the_kind_of_an_optimizer_comes_before_its_settings():
    base = Config("digits", layers=(Flatten(), Dense(10)), learning_rate=0.5)
    grid = {"optimizer.momentum": [0.9], "optimizer": ["sgd"]}
    (run,) = plan_runs(base, [0], grid)
    assert run.config.optimizer == SGD(0.9)
    # It brought its default rate, and that is said.
    assert run.setting["learning_rate"] == run.config.learning_rate == 0.01
