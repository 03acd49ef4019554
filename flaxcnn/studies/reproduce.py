"""A run or a study done again from its record: the same bits, or where they part."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxcnn.backend import prepare
from flaxcnn.data.datasets import load_for
from flaxcnn.engine.saved import check_data
from flaxcnn.engine.train import fit
from flaxcnn.errors import CheckpointError, InterruptedRun
from flaxcnn.recipe.config import Config
from flaxcnn.records.environment import DECIDES_NOTHING, environment
from flaxcnn.records.files import flat
from flaxcnn.records.folder import run_or_study
from flaxcnn.records.run import RunDirectory
from flaxcnn.records.study import StudyDirectory
from flaxcnn.studies.plan import label, plan_runs
from flaxcnn.studies.study import Tell, study

TIMES = ("seconds", "images_per_second", "stall")  # of an epoch: never the same


@dataclass(frozen=True)
class Reproduction:
    """What came of it, run by run."""

    runs: int
    epochs: int  # that the record has, and that were compared
    differ: list[dict[str, Any]]  # seed, label and first epoch (None: the final weights) of each
    fields: list[str]  # of env.json that have changed since

    @property
    def same(self) -> bool:
        """Whether every run has the same bits."""
        return not self.differ


def reproduce(
    path: Path, on_run: Callable[[int, int], None] = lambda ended, planned: None
) -> Reproduction:
    """Do it again in a temporary folder and compare every recorded epoch and the final weights.

    Args:
        path: of a run or study directory.
        on_run: called after each run of a study with how many have ended, and of how many.

    Raises:
        CheckpointError: no finished run or study there.
        DataError: the data are not those of the record.
        InterruptedRun: SIGTERM or SIGINT.
    """
    prepare()
    path = path.expanduser()
    try:
        return _run(path) if run_or_study(path, "reproduce") == "run" else _study(path, on_run)
    except InterruptedRun as error:
        said = "stopped before everything was done again; nothing was changed"
        raise InterruptedRun(error.signal, said, error.exit_code) from None


def _run(path: Path) -> Reproduction:
    old = RunDirectory(path)
    config, summary = old.config(), old.read_json("summary.json")
    dataset = load_for(config)
    check_data(dataset, summary["data_digest"])
    with tempfile.TemporaryDirectory() as folder:
        result = fit(config, dataset, Path(folder) / "run", name=summary["experiment"],
                     on_note=lambda _: None)  # fmt: skip
        new = RunDirectory(result.path).history()
    parted = _first_difference(
        old.history(), new, summary["params_digest"], result.summary["params_digest"]
    )
    differ = [{"seed": config.seed, "label": "", "epoch": parted[1]}] if parted[0] else []
    return Reproduction(1, len(old.history()), differ, _changed(old.read_json("env.json")))


def _study(path: Path, on_run: Callable[[int, int], None]) -> Reproduction:
    old = StudyDirectory(path)
    plan, rows = old.read_json("plan.json"), {row["run"]: row for row in old.rows()}
    config = Config.from_dict(plan["config"])
    planned = plan_runs(config, plan["seeds"], plan["grid"], plan["vary"])
    if missing := [run for run in planned if run.key not in rows]:
        raise CheckpointError(
            f"{path}: holds {len(planned) - len(missing)} of {len(planned)} runs; "
            "`flaxcnn study --resume` does the others"
        )
    dataset = load_for(config)
    for row in rows.values():
        check_data(dataset, row["data_digest"])
    with tempfile.TemporaryDirectory() as folder:
        result = study(config, plan["seeds"], grid=plan["grid"], vary=plan["vary"],
                       study_dir=Path(folder) / "study", name=plan["experiment"],
                       dataset=dataset, how=plan.get("how", "auto"),
                       tell=Tell(run=lambda _, ended, of: on_run(ended, of)))  # fmt: skip
        new = StudyDirectory(result.path)
        epochs = [_by_run(folder.lines("epochs.jsonl")) for folder in (old, new)]
    differ = []
    for row in result.rows:
        before = rows[row["run"]]
        parted = _first_difference(
            epochs[0].get(row["run"], []), epochs[1].get(row["run"], []),
            before.get("params_digest"), row.get("params_digest"),
        )  # fmt: skip
        if parted[0]:
            words = label(row["setting"], row["vary"])
            differ.append({"seed": row["seed"], "label": words, "epoch": parted[1]})
    compared = sum(map(len, epochs[0].values()))
    return Reproduction(len(result.rows), compared, differ, _changed(old.read_json("env.json")))


def _by_run(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        found.setdefault(line["run"], []).append(line)
    return found


def _first_difference(
    old: list[dict[str, Any]], new: list[dict[str, Any]], old_digest: Any, new_digest: Any
) -> tuple[bool, int | None]:
    """(whether they differ, the first epoch that does; None where only the weights do)."""
    for before, now in zip(old, new, strict=False):
        if any(before.get(key) != now.get(key) for key in before if key not in TIMES):
            return True, before["epoch"]
    return old_digest != new_digest or (bool(old) and len(old) != len(new)), None


def _changed(before: dict[str, Any]) -> list[str]:
    """Fields of env.json that are not what they were, with both values."""
    old, new = flat(before), flat(environment())
    return [
        f"{key}: then {old.get(key)}, now {new.get(key)}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key) and key.partition(".")[0] not in DECIDES_NOTHING
    ]
