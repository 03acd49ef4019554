"""Which runs become a side, and what is done with dead networks."""

import dataclasses
import json

import numpy as np
import pytest

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten
from flaxcnn.studies.compare import compare

RECIPE = Config("digits", layers=(Flatten(), Dense(10)), batch_size=100)
DEAD = 0.1135
GOOD = {0: 0.93, 1: 0.92, 2: DEAD, 3: 0.925, 4: DEAD}
LESS = {0: 0.90, 1: 0.91, 2: 0.895, 3: DEAD, 4: 0.905}


def runs(folder, batch_size, accuracies):
    """A run directory a seed, as training leaves it but for what a comparison does not read."""
    for seed, accuracy in accuracies.items():
        run = folder / f"{batch_size}-{seed}"
        run.mkdir()
        config = dataclasses.replace(RECIPE, batch_size=batch_size, seed=seed)
        (run / "config.json").write_text(json.dumps(config.to_dict()))
        (run / "summary.json").write_text(json.dumps({
            "experiment": f"batch{batch_size}", "seed": seed, "test_accuracy": accuracy,
            "test_rows": 10_000, "data_digest": "d", "split_digest": "s", "protocol": "honest",
            "dead_layers": ["conv2d_1"] if accuracy == DEAD else [], "fingerprint": "f",
            "params": 1, "kept_epoch": 1, "best_epoch": 1, "epochs_run": 1, "val_accuracy": 0.9,
        }))  # fmt: skip
        (run / "data.json").write_text(json.dumps({
            "shape": [8, 8, 1], "classes": ["0", "1"], "digest": "d",
            "rows": {"train": 1, "validation": 1, "test": 1},
        }))  # fmt: skip
        for name in ("env.json", "status.json"):
            (run / name).write_text("{}")
    return [folder / f"{batch_size}-{seed}" for seed in accuracies]


def compared(paths, **more):
    found = compare(*paths, **more)
    return found.sides, found.compared, found.notes


@pytest.fixture
def folders(tmp_path):
    return [*runs(tmp_path, 100, GOOD), *runs(tmp_path, 200, LESS)]


def test_runs_of_a_recipe_are_a_side(folders):
    sides, found, _ = compared(folders)
    assert [(side.label, side.values) for side in sides] == [("batch100", GOOD), ("batch200", LESS)]
    expected = np.mean([*LESS.values()]) - np.mean([*GOOD.values()])
    np.testing.assert_allclose(found[0].verdict.comparison.difference, expected)


def test_dead_networks_count_and_are_counted(folders):
    _, found, notes = compared(folders)
    assert "batch100: 2 of 5 networks are dead and count like any other" in notes[0]
    assert "batch200: 1 of 5 networks are dead" in notes[1]
    assert found[0].verdict.verdict == "not shown"
    assert ": no difference found (p = " in str(compare(*folders))


def test_without_the_dead(folders):
    sides, found, notes = compared(folders, alive=True)
    assert [set(side.values) for side in sides] == [{0, 1, 3}, {0, 1, 2, 4}]
    assert "left out" in notes[0]
    test = found[0].verdict.comparison
    np.testing.assert_allclose([test.mean_a, test.mean_b], [3.61 / 4, 2.775 / 3])
    assert found[0].verdict.verdict == "worse"


def test_pairs_without_the_dead_are_whole(folders):
    """Only seeds 0 and 1 live on both sides."""
    _, found, _ = compared(folders, paired=True, alive=True)
    assert found[0].verdict.comparison.n_a == 2
    np.testing.assert_allclose(found[0].verdict.comparison.difference, -0.02)


def test_rows_on_other_data_are_a_side_of_their_own(folders):
    summary = json.loads((folders[0] / "summary.json").read_text()) | {"data_digest": "other"}
    (folders[0] / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ConfigError, match="differ in data_digest"):
        compared(folders)


def test_a_pinned_source_is_another_recipe(tmp_path):
    folders = [*runs(tmp_path, 100, GOOD)]
    config = json.loads((folders[0] / "config.json").read_text()) | {"init_seed": 3}
    (folders[0] / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="left with 1"):
        compared(folders)


def test_pairs_of_which_one_diverged_do_not_count(folders):
    summary = json.loads((folders[0] / "summary.json").read_text()) | {"test_accuracy": None}
    (folders[0] / "summary.json").write_text(json.dumps(summary))
    sides, found, notes = compared(folders, paired=True)
    assert sides[0].failed == {0}
    assert found[0].verdict.comparison.n_a == 4
    assert "batch100: 1 of 5 runs diverged and do not count" in notes


def test_many_sides_without_spread_are_corrected(tmp_path):
    """One of eight is no finding, though it would be one alone."""
    first = runs(tmp_path, 100, dict.fromkeys(range(8), 0.9270))
    alone = compared([*first, *runs(tmp_path, 200, dict.fromkeys(range(8), 0.9345))])[1]
    assert 0.01 < alone[0].verdict.p_value < 0.05
    for size in range(201, 208):
        runs(tmp_path, size, dict.fromkeys(range(8), 0.9345))
    many = compared([*first, *sorted(tmp_path.glob("20*"))])[1]
    assert {one.verdict.verdict for one in many} == {"not shown"}
    np.testing.assert_allclose(many[0].verdict.p_value, 8 * alone[0].verdict.p_value)


def test_too_few_alive_is_said(tmp_path):
    folders = [*runs(tmp_path, 100, {0: 0.9, 1: DEAD}), *runs(tmp_path, 200, LESS)]
    with pytest.raises(ConfigError, match="batch100 is left with 1 of the two or more seeds"):
        compared(folders, alive=True)
