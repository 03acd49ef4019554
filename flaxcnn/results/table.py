"""RESULTS.md: what each document reported, what its recipe gives, and why they differ.

Everything in it is computed: from rows, searches and what the catalog says of the documents.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from flaxcnn.recipe import catalog
from flaxcnn.recipe.catalog import Experiment
from flaxcnn.records.format import figure, label
from flaxcnn.records.tables import Cell, Table
from flaxcnn.records.views import candidates_table, refit_note, scoring_text
from flaxcnn.results import champions
from flaxcnn.results.figures import (
    Document,
    Figures,
    Measured,
    documents,
    reported,
    verdict,
)
from flaxcnn.results.questions import Answer, answers
from flaxcnn.results.rows import Results, changed_settings
from flaxcnn.results.tasks import Pace, Task, tasks
from flaxcnn.results.verdicts import Judged, judge

PROTOCOLS = ("document", "honest")
HEAD = """# Results

Written by `flaxcnn experiments table` from the rows beside it; do not edit.

A row of a table is an experiment of a document. "document" is its figure and the rows it was taken
on; "as the document did" is ours under its own protocol, "honest" is ours with the epoch chosen on
held-out rows and the test rows used once: test accuracy, mean ± standard deviation over n seeds and
Student's 95 % interval of the mean, clipped to 0 and 1, which an accuracy cannot pass. Best epoch,
seconds of a training and images/s are medians.

Verdicts compare like with like, under the document's protocol. A figure is *reproduced* where it
falls into the 95 % prediction interval of one more run, which is never narrower than what the
choice of the test rows does. With one or two seeds that is all there is to go by. The rule is in
`flaxcnn.results.verdicts`. Stale rows, made with another recipe than today's, count in no figure.

Searches show the accuracy on folds that a candidate was not trained on: mean ± standard deviation
over folds, with the 95 % interval that allows for folds sharing their training rows (Nadeau and
Bengio 2003); p values are corrected (Holm) over the candidates. "front": no candidate has fewer
parameters and a higher score.
"""
HEADER = ("experiment", "data", "parameters", "document", "as the document did", "honest",
          "best epoch", "seconds", "images/s", "verdict")  # fmt: skip
QUESTIONS_HEAD = """## The documents' open questions, answered by data

Differences of test accuracy under the honest protocol at equal seeds, with Student's 95 % interval;
on the folds of a search with Nadeau and Bengio's. p values are corrected (Holm) over all
comparisons of this section. "Equivalent" is within the binomial standard error of the test rows.
"""


@dataclass
class PageData:
    """What the page is made of."""

    figures: Figures
    pace: Pace
    left: dict[tuple[str, str], Task] = field(default_factory=dict)  # (experiment, protocol)

    @classmethod
    def of(cls, results: Results) -> PageData:
        """Of a folder of rows."""
        figures = Figures(results)
        every = catalog.experiments() | catalog.champions()
        known = [e for e in every.values() if e.kind != "mention"]
        left = {}
        for protocol in PROTOCOLS:
            wanted = [e for e in known if protocol == "honest" or not e.candidates]
            for task in tasks(wanted, (protocol,), (0,), results)[0]:
                left[task.experiment.name, protocol] = task
        return cls(figures, Pace.of(figures.rows), left)

    def not_run(self, experiment: Experiment, protocol: str) -> str:
        """`not run yet, about 3.4 h`."""
        task = self.left.get((experiment.name, protocol))
        return "not run yet" + (f", {self.pace.text([task])}" if task else "")


def page(results: Results) -> str:
    """RESULTS.md of a folder of rows.

    Raises:
        ConfigError: not a results folder, or of another format.
        CheckpointError: a row or the record of a search is damaged.
    """
    table = PageData.of(results)
    parts = [HEAD, _state(table)]
    parts += [_document(table, document) for document in documents()]
    parts += [champions.section([_champion(table, e) for e in catalog.champions().values()])]
    parts += [QUESTIONS_HEAD, "\n\n".join(_answer(a) for a in answers(table.figures)) + "\n"]
    return "\n".join(parts)


def verdicts(results: Results) -> list[dict[str, object]]:
    """The verdict of every documented training, for `--json`."""
    figures = Figures(results)
    judged = []
    for experiment in (e for d in documents() for e in d.documented if e.kind == "model"):
        own = reported(experiment)
        rows = figures.of(experiment.name, "document")
        judged.append({
            "experiment": experiment.name, "reported": own and own.value, "kind": own and own.kind,
            **vars(verdict(experiment, rows)), "n": len(rows.rows), "stale": rows.stale,
            "dead": len(rows.rows) - len(rows.living),
        })  # fmt: skip
    return judged


def _answer(answer: Answer) -> str:
    asked = f"**{answer.question.asked}** (The document: {answer.question.said})"
    return " ".join(filter(None, (asked, answer.head, answer.body)))


def _state(table: PageData) -> str:
    """How much has been run, where, and what is left."""
    wanted = [e for d in documents() for e in d.documented]
    models = [e for e in wanted if e.kind == "model"]
    grids = [e for e in wanted if e.candidates]
    complete = [e for e in grids if table.figures.results.has_search(e.name, "honest")]
    judged = Counter(verdict(e, table.figures.of(e.name, "document")).verdict for e in models)
    lines = [
        f"Of {len(models)} trainings {_seeds(table, models, 'document')} have been run as the "
        f"document did and {_seeds(table, models, 'honest')} under the honest protocol; of "
        f"{len(grids)} grids {len(complete)} are complete"
        + (f" ({', '.join(e.name for e in complete)})" if complete else "") + ".",
        "Verdicts: " + ", ".join(f"{n} {word}" for word, n in judged.most_common()) + ".",
        f"{len(table.figures.rows)} rows, made on {_machines(table.figures)}.",
    ]  # fmt: skip
    names = {e.name for e in wanted}
    left = [task for (name, _), task in table.left.items() if name in names]
    if left:
        lines.append(f"Left for one seed of everything: {len(left)} trainings and searches, on the "
                     f"machine of these rows {table.pace.text(left)}.")  # fmt: skip
    return "\n".join(lines) + "\n"


def _seeds(table: PageData, models: Sequence[Experiment], protocol: str) -> str:
    """`28 (15 with 1 seed, 13 with 8)`: how many models have rows, and how many seeds of them."""
    counts = Counter(len(table.figures.of(e.name, protocol).rows) for e in models)
    del counts[0]
    each = ", ".join(f"{n} with {seeds} seed{'s' if seeds > 1 else ''}"
                     for seeds, n in sorted(counts.items()))  # fmt: skip
    return f"{counts.total()} ({each})" if counts else "none"


def _machines(figures: Figures) -> str:
    """`2 CPU cores, cpu, jax 0.10.1 (28 rows)`."""
    counts = Counter(
        f"{row['environment']['cpus']} CPU cores, {row['environment']['device']}"
        + (f", jax {row['versions']['jax']}" if "versions" in row else "")
        for row in figures.rows
    )
    return "; ".join(f"{what} ({n} rows)" for what, n in counts.most_common()) or "no machine yet"


def _champion(table: PageData, experiment: Experiment) -> list[str]:
    measured = table.figures.of(experiment.name, "honest")
    return champions.row(experiment, measured, table.not_run(experiment, "honest"))


# -- a document ----------------------------------------------------------------------------------


def _document(table: PageData, document: Document) -> str:
    """The section of a document: its table, the verdicts in words, its searches."""
    rows = [[Cell(text) for text in _row(table, e)] for e in document.experiments]
    lines = [f"## {document.file}: {document.subject}", "", Table("", HEADER, rows).markdown()]
    lines += ["", *(f"- **{_short(e)}**: {_words(table, e)}" for e in document.experiments)]
    if shared := _inferred(document):
        lines += ["", "Not in the document, and taken here:", "", *shared]
    text = "\n".join(lines) + "\n"
    return text + "".join(_search(table, e) for e in document.experiments if e.candidates)


def _short(experiment: Experiment) -> str:
    return experiment.name.partition("/")[2]


def _row(table: PageData, experiment: Experiment) -> list[str]:
    facts = catalog.summary(experiment)
    head = [_short(experiment), facts["dataset"] or "-", _parameters(experiment, facts["params"])]
    blank = ["-"] * 3
    if experiment.kind == "mention":
        return [*head, "-", "only mentioned", "only mentioned", *blank, "-"]
    if experiment.candidates:
        score = experiment.reported.get("cv_accuracy")
        document = "-" if score is None else f"{score:.4f} cross-validation"
        return [*head, document, "-", _grid_state(table, experiment), *blank,
                _grid_verdict(table, experiment).verdict]  # fmt: skip
    both = {p: table.figures.of(experiment.name, p) for p in PROTOCOLS}
    own = reported(experiment)
    document = f"{own.text} {own.kind}" if own else "-" if experiment.document else "ours"
    judged = verdict(experiment, both["document"]).verdict if own else "-"
    speed = next((m for m in both.values() if m.rows), Measured())
    return [
        *head, document, *(_measured(table, experiment, p) for p in PROTOCOLS),
        _epoch(experiment, speed), _median(speed, "seconds"), _median(speed, "images_per_second"),
        judged,
    ]  # fmt: skip


def _parameters(experiment: Experiment, params: int | None) -> str:
    if params is None:
        return "-"
    document = experiment.reported.get("params")
    if document is None:
        return f"{params:,}"
    return (
        f"{params:,}, as the document"
        if document == params
        else f"{params:,} (document {document:,})"
    )


def _epoch(experiment: Experiment, measured: Measured) -> str:
    best = measured.median("best_epoch")
    if best is None:
        return "-"
    document = experiment.reported.get("best_val_epoch")
    return f"{best:.0f} of {measured.median('epochs_run'):.0f}" + (
        f" (document {document})" if document is not None else "")  # fmt: skip


def _median(measured: Measured, metric: str) -> str:
    value = measured.median(metric)
    return "-" if value is None else f"{value:,.0f}"


def _measured(table: PageData, experiment: Experiment, protocol: str) -> str:
    """Ours under one protocol: the figure, dead networks separately, and what does not count."""
    measured = table.figures.of(experiment.name, protocol)
    if protocol == "document" and not experiment.documented:
        return "-"
    notes = [f"{measured.stale} stale"] if measured.stale else []
    notes += [f"{measured.diverged} diverged"] if measured.diverged else []
    summary = measured.summary()
    if summary is None:
        text = "diverged" if measured.diverged else table.not_run(experiment, protocol)
    else:
        text = f"{figure(summary.mean, summary.sd, summary.t_interval)}, n = {summary.n}"
        dead = len(measured.rows) - len(measured.living)
        if dead:
            text += f", of which {dead} dead"
        if dead and (alive := measured.summary(alive=True)):
            text += f"; living {figure(alive.mean, alive.sd, alive.t_interval)}, n = {alive.n}"
    return text + (f" ({', '.join(notes)})" if notes else "")


def _words(table: PageData, experiment: Experiment) -> str:
    """The verdict's reason, and what is known of the document's figure."""
    parts: list[str] = []
    if experiment.kind == "mention":
        parts.append(f"only mentioned: {experiment.refusal}.")
    elif experiment.candidates:
        judged = _grid_verdict(table, experiment)
        parts.append(f"*{judged.verdict}*: {judged.reason}.")
    elif reported(experiment) is None:
        parts.append(f"{experiment.title}.")
    else:
        judged = verdict(experiment, table.figures.of(experiment.name, "document"))
        parts.append(f"*{judged.verdict}*: {judged.reason}.")
        if judged.verdict in ("better", "not reproduced") and experiment.inferred:
            guessed = ", ".join(f"`{name}`" for name in experiment.inferred)
            parts.append(f"The document does not give {guessed} (below): any of it may be why.")
    return " ".join([*parts, *filter(None, [experiment.notes])])


def _inferred(document: Document) -> list[str]:
    """What is inferred, each text once, with the experiments it holds for."""
    names_of: dict[tuple[str, str], list[str]] = {}
    for experiment in document.documented:
        for key, why in experiment.inferred.items():
            names_of.setdefault((key, why), []).append(_short(experiment))
    every = {_short(e) for e in document.documented if e.inferred}
    lines = []
    for (key, why), names in names_of.items():
        which = "" if set(names) == every else f" ({', '.join(names)})"
        lines.append(f"- `{key}`{which}: {why}.")
    return lines


# -- grids ---------------------------------------------------------------------------------------


def _grid_state(table: PageData, experiment: Experiment) -> str:
    record = table.figures.search(experiment.name)
    if record is None:
        return table.not_run(experiment, "honest")
    text = f"[{len(experiment.candidates)} candidates](#{_anchor(experiment)})"
    if changed_settings(experiment.name, record.plan):
        text += f", shortened; in full {table.not_run(experiment, 'honest')}"
    return text


def _grid_verdict(table: PageData, experiment: Experiment) -> Judged:
    """Of the document's best point: its score against ours of the same point, and the winner."""
    record = table.figures.search(experiment.name)
    if record is None:
        return Judged("cannot be told", "it has not been searched")
    search = record.summary
    best = experiment.reported.get("best_params")
    if best is None:
        reason = f"the document never saw it finish; here {search['winner']} won"
        return Judged("cannot be told", reason)
    own = next((one for one in search["candidates"] if {k: one.get(f"setting.{k}") for k in best}
                == best), None)  # fmt: skip
    winner = f"the document's best is {label(best)}, ours {search['winner']}"
    if changed_settings(experiment.name, record.plan):
        return Judged("cannot be told", f"the search was shortened; {winner}")
    score, refit = experiment.reported.get("cv_accuracy"), search.get("refit")
    if own is None or own["mean"] is None or refit is None:
        return Judged("cannot be told", f"{winner}, and there is no score to compare")
    scored = refit["train_rows"] + refit["val_rows"]  # by one fold each
    judged = judge([own["mean"]], score, scored, 4)
    return Judged(judged.verdict, f"{judged.reason}; {winner}", judged.difference, judged.interval)


def _anchor(experiment: Experiment) -> str:
    return f"search-of-{experiment.name.replace('/', '')}"


def _search(table: PageData, experiment: Experiment) -> str:
    """The table of a search, and in what it differs from the grid."""
    record = table.figures.search(experiment.name)
    if record is None:
        return ""
    search, env = record.summary, record.environment
    changed = changed_settings(experiment.name, record.plan)
    differ = ", ".join(f"`{k}={json.dumps(new)}` instead of `{json.dumps(old)}`"
                       for k, (old, new) in changed.items())  # fmt: skip
    tested = refit_note(search)
    return (
        f"\n### Search of {experiment.name}\n\n{scoring_text(search)}; {search['trained']} "
        f"trainings for {search['planned']} runs. "
        + (f"Shortened: {differ}. " if differ else "")
        + f"{env['cpus']} CPU cores, {env['device']}.\n\n"
        + candidates_table(search).markdown()
        + "\n"
        + (f"\n{tested}\n" if tested else "")
    )
