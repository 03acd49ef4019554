"""The cost of a search: both sides are asked for the same; how fast they are does not matter."""

import dataclasses
import importlib.util
import json

import pytest
from sklearn.model_selection import ParameterGrid

from benchmarks import search_cost, tables
from benchmarks.peers.processes import PeerFailed
from benchmarks.search_cost import OURS, PEER, Plan

TINY = Plan(rows=search_cost.whole_rows(200), shrink=10, threads=1)
KERAS = {"jit_compile": False, "steps_per_execution": 16, "data": "tf.data", "jobs": 1}
POINT = {"activation": "relu", "optimizer": "Nadam", "dropout_rate": 0.2, "epochs": 2}


def test_gridsearchcv_is_given_the_candidates_and_no_others():
    points = [point for point, _ in search_cost.candidates(10)]
    given = list(ParameterGrid(search_cost.grid_of(search_cost.candidates(10))))
    assert len(given) == len(points) == 24
    assert all(point in given for point in points)
    assert {point["epochs"] for point in points} == {2, 3}


def test_candidates_are_the_documents_but_for_epochs_split_and_what_is_kept():
    for (point, config), (_, whole) in zip(
        search_cost.candidates(5), search_cost.candidates(1), strict=True
    ):
        assert point["epochs"] == config.epochs == whole.epochs // 5
        assert dataclasses.replace(config, epochs=whole.epochs) == whole
        assert (config.patience, config.keep) == (None, "last")


def test_a_trial_has_a_candidate_of_each_program():
    points = [point for point, _ in search_cost.points_of(dataclasses.replace(TINY, trial=True))]
    assert len(points) == len({(p["activation"], p["optimizer"]) for p in points}) == 4
    assert {(p["dropout_rate"], p["epochs"]) for p in points} == {(0.2, 2)}


def test_images_are_counted_with_and_without_shorter_runs():
    points = search_cost.candidates(10)
    assert search_cost.images_asked(points, 100) == 12 * (2 + 3) * 5 * 80
    assert search_cost.images_needed(points, 100) == 12 * 3 * 5 * 80


def test_each_fold_leaves_whole_batches():
    assert [search_cost.whole_rows(rows) for rows in (1, 500, 6400)] == [160, 480, 6400]


def a_turn(ours, theirs):
    points = search_cost.candidates(10)
    trained = {OURS: search_cost.images_needed(points, 160),
               PEER: search_cost.images_asked(points, 160)}  # fmt: skip
    return {
        side: {
            "seconds": seconds, "search_seconds": seconds - 1, "at_a_time": 2,
            "images_trained": trained[side], "params": [47582], "epoch_seconds": 0.1,
            "pixels": "synthetic", "scores": [[POINT, score]],
        }
        for side, seconds, score in ((OURS, ours, 0.5), (PEER, theirs, 0.25))
    }  # fmt: skip


def test_ratios_are_taken_within_turns_and_reach_the_readme(tmp_path):
    turns = [a_turn(11, 41), a_turn(21, 41)]
    path = tmp_path / "cost.json"
    plan = dataclasses.replace(TINY, rows=160)
    search_cost.write(path, turns, plan, {"settings": KERAS, "tried": []})
    document = json.loads(path.read_text())
    ratios = document["ratios"]["flaxcnn"]
    assert ratios["search"]["highest"] == 41 / 11
    assert ratios["images_trained"]["highest"] == pytest.approx(0.6 * 41 / 11)
    assert ratios["without_start"] == {"median": 3.0, "lowest": 2.0, "highest": 4.0}
    assert document["scores"] == [{"settings": POINT, OURS: 0.5, PEER: 0.25}]
    block = tables.search_cost(document)
    assert "2 epochs for 20 and 3 epochs for 30" in block
    assert "3.00 (2.00 to 4.00)" in block


def test_other_work_than_the_plans_is_refused():
    points, turn = search_cost.candidates(10), a_turn(2, 3)
    search_cost.check([turn], points, 160)
    turn[PEER]["images_trained"] += 1
    with pytest.raises(AssertionError, match="keras"):
        search_cost.check([turn], points, 160)


@pytest.mark.slow
def test_both_sides_search_the_same(tmp_path, monkeypatch):
    for package in ("keras", "tensorflow"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'flaxcnn[peers]'")
    monkeypatch.setenv("FLAXCNN_DATA_DIR", str(tmp_path))  # nothing is prepared there
    plan = dataclasses.replace(TINY, trial=True)  # a candidate of each program
    ours = search_cost.timed(OURS, plan)
    theirs = search_cost.timed(PEER, dataclasses.replace(plan, settings=KERAS))
    points = search_cost.points_of(plan)
    search_cost.check([{OURS: ours}], points, plan.rows)
    assert theirs["images_trained"] == search_cost.images_asked(points, plan.rows) * 2 / 5  # folds
    assert theirs["params"] == ours["params"]
    assert ours["pixels"] == "synthetic"
    wanted = {frozenset(point.items()) for point, _ in points}
    for found in (ours, theirs):
        assert {frozenset(point.items()) for point, _ in found["scores"]} == wanted
        assert all(0 <= mean <= 1 for _, mean in found["scores"])


def test_a_side_that_fails_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXCNN_DATA_DIR", str(tmp_path))
    with pytest.raises(PeerFailed, match=r"flaxcnn ended with 1: (.|\n)*ConfigError"):
        search_cost.timed(OURS, dataclasses.replace(TINY, rows=20))
