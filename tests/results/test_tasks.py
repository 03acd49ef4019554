"""What a queue has to do, in which order, and how long that takes."""

import made_rows
import pytest

from flaxcnn.errors import ConfigError
from flaxcnn.recipe import catalog
from flaxcnn.results.rows import Results
from flaxcnn.results.tasks import LIKE, STACK_SIZE, Pace, Task, chosen, stacks, tasks

BOTH = ("document", "honest")
LADDER = [e for n, e in catalog.experiments().items() if n.startswith("mnist-ladder/")]


def test_the_cheapest_comes_first(results):
    todo, done = tasks(LADDER, BOTH, (0,), results)
    assert (len(todo), done) == (26, 0)
    assert [t.work for t in todo] == sorted(t.work for t in todo)
    assert todo[0].experiment.name == "mnist-ladder/model1"  # half the pixels of baseline


def test_nothing_is_done_twice(results):
    name = "mnist-ladder/baseline"
    results.add([made_rows.row(name, "honest", seed) for seed in (0, 2)])
    todo, done = tasks([catalog.find(name)], ("honest",), range(4), results)
    assert done == 2
    assert sorted(s for task in todo for s in task.seeds) == [1, 3]


def test_a_stale_row_is_made_again(results):
    name = "mnist-ladder/baseline"
    results.add([made_rows.stale(made_rows.row(name, "honest"))])
    todo, done = tasks([catalog.find(name)], ("honest",), (0,), results)
    assert (len(todo), done) == (1, 0)


def test_seeds_of_small_networks_are_stacked(results):
    small, large = catalog.find("mnist-ladder/baseline"), catalog.find("cifar-tuning/model1")
    todo, _ = tasks([small, large], ("honest",), range(9), results)
    seeds = {name: [t.seeds for t in todo if t.experiment.name == name]
             for name in (small.name, large.name)}  # fmt: skip
    assert sorted(seeds[small.name], key=len) == [(8,), tuple(range(8))]
    assert sorted(seeds[large.name]) == [(s,) for s in range(9)]
    assert {t.kind for t in todo if len(t.seeds) > 1} == {"study"}


def test_stacks():
    assert stacks(range(3), True) == [(0,), (1,), (2,)]
    assert stacks(range(4), True) == [(0, 1, 2, 3)]
    assert [len(part) for part in stacks(range(2 * STACK_SIZE + 1), True)] == [8, 8, 1]
    assert stacks(range(4), False) == [(0,), (1,), (2,), (3,)]


def test_folders_tell_tasks_apart(results):
    todo, _ = tasks(chosen([], True), BOTH, (0, 1), results)
    assert len({task.folder for task in todo}) == len(todo)


def test_what_is_chosen():
    everything = chosen([], True)
    assert len(everything) == 33  # 34 without the one that is only mentioned
    assert {e.kind for e in everything} == {"model", "grid"}
    assert [e.name for e in chosen(["mnist-ladder/model2", "mnist-ladder/model1"], False)] == [
        "mnist-ladder/model1", "mnist-ladder/model2"
    ]  # fmt: skip
    assert len(chosen(["mnist-ladder"], False)) == 13


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "which ones"),
        (["mnist-lader"], "did you mean 'mnist-ladder'"),
        (["mnist-ladder/model99"], "did you mean 'mnist-ladder/model9'"),
        (["cifar-tuning/past-model"], "cannot be run"),
        (["nowhere.py:small"], r"no file nowhere\.py"),
    ],
)
def test_unknown_names(names, says):
    with pytest.raises(ConfigError, match=says) as error:
        chosen(names, False)
    assert "\n" not in str(error.value)


# -- estimates -----------------------------------------------------------------------------------


def task(per_image, work):
    return Task(LADDER[0], "honest", (0,), work, per_image)


def test_the_pace_is_that_of_networks_of_a_like_size():
    pace = Pace(((1e4, 1e8), (1e6, 1e10), (2e6, 2e10), (3e6, 3e10)))
    assert pace.seconds(task(2e6, 4e10)) == 2.0  # the median of three
    assert pace.seconds(task(1e4, 1e9)) == 10.0


def test_a_tiny_network_says_nothing_of_a_large_one():
    pace = Pace(((1e4, 1e8),))
    assert pace.seconds(task(1e4 * LIKE, 1e9)) == 10.0
    assert pace.seconds(task(1.01e4 * LIKE, 1e9)) is None
    assert pace.seconds(task(0.99e4 / LIKE, 1e9)) is None
    assert pace.text([task(1e7, 1e9)]) == "how long that takes is not known yet"
    some = pace.text([task(1e4, 7.2e11), task(1e7, 1e9)])
    assert some == "about 2.0 h for 1 of them; how long the others take is not known yet"
    assert pace.text([]) == "nothing is left"
    assert Pace(()).seconds(task(1e4, 1e9)) is None


def test_the_pace_of_rows(results):
    results.add([made_rows.row("mnist-ladder/baseline", seconds=12.0)])
    todo, _ = tasks(LADDER[:1], ("document",), (1,), Results(results.path))
    # 2 of 10 epochs in 12 s
    assert Pace.of(results.rows()).seconds(todo[0]) == pytest.approx(60.0)
