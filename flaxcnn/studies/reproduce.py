"""A run or a study trained again from its record: the same bits, or where they first differ."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxcnn.backend import prepare
from flaxcnn.data.datasets import load_for
from flaxcnn.engine.saved import check_data
from flaxcnn.engine.train import fit
from flaxcnn.errors import CheckpointError, InterruptedRun
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.networks import own_objects
from flaxcnn.recipe.references import SOURCES, copies_in, since_recorded
from flaxcnn.records.environment import DECIDES_NOTHING, environment
from flaxcnn.records.files import flat
from flaxcnn.records.format import label
from flaxcnn.records.read import Record, RunRecord, StudyRecord, read_runs
from flaxcnn.studies.events import Listener
from flaxcnn.studies.plan import plan_runs
from flaxcnn.studies.study import study

TIMES = ("seconds", "images_per_second", "stall")  # of an epoch: never the same
Epochs = list[dict[str, Any]]


@dataclass(frozen=True)
class Reproduction:
    """Which runs have the same bits as their record."""

    runs: int
    epochs: int  # in the record, all of which were compared
    differ: list[dict[str, Any]]  # seed, label and first epoch (None: the final weights) of each
    fields: list[str]  # of env.json that have changed since
    code: list[str]  # of one's own: whether each file is still as recorded

    @property
    def same(self) -> bool:
        """Whether every run has the same bits."""
        return not self.differ


def reproduce(
    run: Path | str | Record, on_run: Callable[[int, int], None] = lambda ended, planned: None
) -> Reproduction:
    """Train it again in a temporary folder; compare every recorded epoch and the final weights.

    >>> from flaxcnn import train
    >>> reproduce(train("digits/quickstart", epochs=1, verbose=False)).same
    True

    Code of one's own is taken from the copy in the record; `code` tells whether it has changed.

    Args:
        run: directory of a run or study, or what `flaxcnn.train` or `study` returned.
        on_run: called after each run of a study with how many have ended, and of how many.

    Raises:
        CheckpointError: no finished run or study there.
        DataError: the data is not the data of the record.
        InterruptedRun: a signal (`flaxcnn.signals`).
    """
    prepare()
    path = run.path if isinstance(run, Record) else Path(run).expanduser()
    record = read_runs(path, "reproduce")
    try:
        with tempfile.TemporaryDirectory() as folder, copies_in(path / SOURCES):
            if isinstance(record, RunRecord):
                differ = _run_again(record, Path(folder) / "run")
                runs, epochs = 1, len(record.history)
            else:
                differ = _study_again(record, Path(folder) / "study", on_run)
                runs, epochs = len(record.rows), sum(map(len, record.histories.values()))
    except InterruptedRun as error:
        text = "stopped before everything was trained again; nothing was changed"
        raise InterruptedRun(error.signal, text, error.exit_code) from None
    # Of several objects of one file, the file is spoken of once.
    code = list(dict.fromkeys(since_recorded(*each) for each in own_objects(*_recipes(record))))
    return Reproduction(runs, epochs, differ, _changed(record.environment), code)


def _recipes(record: RunRecord | StudyRecord) -> list[Config]:
    """Each recipe of a record; the seeds of a study share theirs."""
    if isinstance(record, RunRecord):
        return [Config.from_dict(record.config)]
    plan, base = record.plan, Config.from_dict(record.plan["config"])
    return [run.config for run in plan_runs(base, plan["seeds"][:1], plan["grid"], plan["vary"])]


def _run_again(old: RunRecord, folder: Path) -> list[dict[str, Any]]:
    config = Config.from_dict(old.config)
    dataset = load_for(config)
    check_data(dataset, old.summary["data_digest"])
    new = fit(config, dataset, folder, name=old.summary["experiment"], on_note=lambda _: None)
    differs, epoch = _first_difference(
        (old.history, old.summary["params_digest"]), (new.history, new.summary["params_digest"])
    )
    return [{"seed": config.seed, "label": "", "epoch": epoch}] if differs else []


def _study_again(
    old: StudyRecord, folder: Path, on_run: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    plan, config = old.plan, Config.from_dict(old.plan["config"])
    planned = plan_runs(config, plan["seeds"], plan["grid"], plan["vary"])
    rows = {row["run"]: row for row in old.rows}
    if missing := [run for run in planned if run.key not in rows]:
        raise CheckpointError(
            f"{old.path}: holds {len(planned) - len(missing)} of {len(planned)} runs; "
            "`flaxcnn study --resume` trains the others"
        )
    dataset = load_for(config)
    for row in rows.values():
        check_data(dataset, row["data_digest"])
    new = study(
        config, plan["seeds"], grid=plan["grid"], vary=plan["vary"], study_dir=folder,
        name=plan["experiment"], dataset=dataset, how=plan.get("how", "auto"),
        tell=Listener(run=lambda outcome, ended, of: on_run(ended, of)),
    )  # fmt: skip
    differ = []
    for row in new.rows:
        key = row["run"]
        differs, epoch = _first_difference(
            (old.histories.get(key, []), rows[key].get("params_digest")),
            (new.histories.get(key, []), row.get("params_digest")),
        )
        if differs:
            text = label(row["setting"], row["vary"])
            differ.append({"seed": row["seed"], "label": text, "epoch": epoch})
    return differ


def _first_difference(
    old: tuple[Epochs, str | None], new: tuple[Epochs, str | None]
) -> tuple[bool, int | None]:
    """Whether two runs differ, and the first epoch that does; None where only the weights do.

    Args:
        old, new: epochs and digest of the final parameters.
    """
    for before, now in zip(old[0], new[0], strict=False):
        if any(before.get(key) != now.get(key) for key in before if key not in TIMES):
            return True, before["epoch"]
    return old[1] != new[1] or (bool(old[0]) and len(old[0]) != len(new[0])), None


def _changed(before: Mapping[str, Any]) -> list[str]:
    """Fields of env.json that have changed, with both values."""
    now = environment()
    if "jax" not in before:  # older records do not say
        del now["jax"]
    old, new = flat(dict(before)), flat(now)
    return [
        f"{key}: then {old.get(key)}, now {new.get(key)}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key) and key.partition(".")[0] not in DECIDES_NOTHING
    ]
