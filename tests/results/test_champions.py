"""Champions: within their budgets, able to train, and in RESULTS.md with their aims."""

from dataclasses import replace

import made_rows
import numpy as np
import pytest

from flaxcnn.data.arrays import Split, dataset
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.loop import Progress, epochs
from flaxcnn.engine.make_job import make_job
from flaxcnn.errors import ConfigError
from flaxcnn.recipe import catalog
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.recipe.layers import totals
from flaxcnn.results.champions import best_document
from flaxcnn.results.table import page
from flaxcnn.results.tasks import chosen

# Data set -> the sizes of the documents' networks, and smaller ones that others have published on.
BUDGETS = {
    "mnist": [2_000, 8_000, 35_030],
    "fashion_mnist": [47_582, 800_000],
    "cifar10": [300_000, 1_250_858, 2_395_562],
}
CHAMPIONS = catalog.champions()


def test_there_is_one_for_each_budget():
    found = [(e.config.dataset, e.budget) for e in CHAMPIONS.values()]
    assert found == [(data, budget) for data, sizes in BUDGETS.items() for budget in sizes]


DEEP = 100_000  # parameters from which on they are DenseNets and PyramidNets


@pytest.mark.parametrize("name", CHAMPIONS)
def test_each_keeps_to_its_budget_and_chooses_nothing_on_test_rows(name):
    champion = catalog.find(name)
    counts = totals(champion.config.table(*KNOWN_DATA[champion.config.dataset]))
    assert counts["params"] <= champion.budget  # moving statistics included
    assert champion.config.protocol == "honest"
    assert champion.config.keep == "last"
    assert champion.config.validation != "test"


@pytest.mark.soak  # 20 s to compile; the deep ones take minutes, and their layers are the zoo's
@pytest.mark.parametrize("name", [n for n in CHAMPIONS if catalog.find(n).budget < DEEP])
def test_each_takes_a_step(name):
    config = replace(catalog.find(name).config, epochs=1, batch_size=8, validation=0.5)
    rng = np.random.default_rng(0)

    def split(rows):
        image = rng.integers(0, 256, (rows, *KNOWN_DATA[config.dataset].shape), np.uint8)
        return Split(image, (np.arange(rows) % 10).astype(np.int32))

    noise = dataset(config.dataset, split(20), split(10), [str(n) for n in range(10)])
    job = make_job(config, noise)
    with Interrupt() as interrupt:
        (report,) = list(epochs(job, job.init(), Progress(), interrupt))
    assert np.isfinite(report.metrics["train_loss"])
    assert np.isfinite(report.metrics["val_loss"])


def cells(text, name):
    section = text.split("## Champions")[1].split("\n## ")[0]
    line = next(x for x in section.splitlines() if x.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_the_table_has_aims_and_how_far_they_are(results):
    name = "best/mnist-2k"
    results.add([
        *(made_rows.row(name, "honest", s, 0.990 + s / 1000, seconds=9.0) for s in range(2)),
        made_rows.stale(made_rows.row("best/mnist-8k", "honest", 0, 0.5)),
    ])  # fmt: skip
    text = page(results)
    one = cells(text, "mnist-2k")
    assert one[2:4] == ["2,000", "1,910"]
    assert one[5] == "0.9920"
    assert one[7] == "0.9905 ± 0.0007 [0.9841, 0.9969], n = 2"
    assert one[8:] == ["-0.0015", "20", "9"]
    assert cells(text, "mnist-8k")[7].startswith("not run yet")  # stale rows do not count
    assert set(CHAMPIONS) == {f"best/{cells(text, n.partition('/')[2])[0]}" for n in CHAMPIONS}


def test_what_a_champion_is_compared_with():
    ladder = catalog.find("best/mnist-35k")
    experiment, figure = best_document(ladder, ladder.budget)
    assert (experiment.name, figure.text) == ("mnist-ladder/model10", "0.993")
    # nothing that small; model10 has 35,030 parameters itself
    assert best_document(ladder, 35_029)[0].name != "mnist-ladder/model10"
    assert best_document(ladder, 1) is None


def test_the_queue_takes_all_or_one():
    assert [e.name for e in chosen(["best"], False)] == list(CHAMPIONS)
    assert [e.name for e in chosen(["best/mnist-2k"], False)] == ["best/mnist-2k"]
    assert not {e.name for e in chosen([], True)} & set(CHAMPIONS)  # --all: the documents'
    with pytest.raises(ConfigError, match="did you mean 'best/mnist-2k'"):
        chosen(["best/mnist-2"], False)
