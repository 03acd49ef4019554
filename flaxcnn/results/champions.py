"""The section of RESULTS.md on champions: what each reached within its number of parameters."""

from __future__ import annotations

from flaxcnn.recipe import catalog
from flaxcnn.recipe.catalog import Experiment
from flaxcnn.records.format import figure
from flaxcnn.records.tables import Cell, Table
from flaxcnn.results.figures import Measured, Reported, reported

HEAD = """## Champions

`best/NAME` of `flaxcnn experiments list --best`: each within a budget of parameters, moving
statistics included. "best document" is the highest figure that a document gives for the same data
with no more parameters. "held out" and "test" are of the last epoch, as no epoch is chosen; test
rows were used once, as in the other tables. LOG.md tells what was tried and what it cost.
"""
HEADER = ("champion", "data", "budget", "parameters", "best document", "aim", "held out", "test",
          "to the aim", "epochs", "seconds")  # fmt: skip


def best_document(champion: Experiment, budget: int) -> tuple[Experiment, Reported] | None:
    """The experiment whose document gives the highest accuracy at no more than `budget` parameters.

    Figures on training rows do not count. None if there is none.
    """
    assert champion.config is not None
    found = []
    for experiment in catalog.experiments().values():
        own, facts = reported(experiment), catalog.summary(experiment)
        same = facts["dataset"] == champion.config.dataset and facts["params"] is not None
        if own and own.metric != "train_accuracy" and same and facts["params"] <= budget:
            found.append((experiment, own))
    return max(found, key=lambda one: one[1].value, default=None)


def row(champion: Experiment, measured: Measured, not_run: str) -> list[str]:
    """The cells of one champion; `not_run` says so where it has no row."""
    assert champion.budget is not None
    assert champion.aim is not None
    facts, best = catalog.summary(champion), best_document(champion, champion.budget)
    test, held = measured.summary(), measured.summary("val_accuracy")
    document = f"{best[1].text} {best[1].kind} ({best[0].name})" if best else "-"
    cells = [champion.name.partition("/")[2], facts["dataset"], f"{champion.budget:,}",
             f"{facts['params']:,}", document, f"{champion.aim:.4f}"]  # fmt: skip
    if test is None or held is None:
        return [*cells, "-", not_run, "-", f"{facts['epochs']}", "-"]
    seconds = measured.median("seconds")
    return [
        *cells, figure(held.mean, held.sd, held.t_interval),
        f"{figure(test.mean, test.sd, test.t_interval)}, n = {test.n}",
        f"{test.mean - champion.aim:+.4f}", f"{facts['epochs']}", f"{seconds:,.0f}",
    ]  # fmt: skip


def section(rows: list[list[str]]) -> str:
    """The section, of one list of cells a champion."""
    table = Table("", HEADER, [[Cell(text) for text in cells] for cells in rows])
    return f"{HEAD}\n{table.markdown()}\n"
