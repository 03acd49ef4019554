"""One run: `fit` trains epoch by epoch, records, checkpoints, and tests what it kept.

`training` opens the run; `fit` and the loop in a user's own hands, `flaxcnn.epochs`, go through it.
The order within an epoch is fixed: train, validate, compare with the best so far, write the
metrics line, write the checkpoint. So a checkpoint has the lines of all its epochs, and a kill
between any two leaves a run that resumes to the same bits and records: lines after the last
checkpoint are dropped and computed again. A signal makes a checkpoint within the epoch, which the
next one of a whole epoch replaces.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from flaxcnn.activity import doing
from flaxcnn.backend import enough_memory, prepare
from flaxcnn.data.arrays import Dataset
from flaxcnn.engine import hosts, sharding
from flaxcnn.engine.about import (
    check_continuity,
    describe,
    note_on_test,
    notes_on_code,
    write_filters,
    write_predictions,
)
from flaxcnn.engine.average import chosen
from flaxcnn.engine.checkpoint import Checkpoints, room
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.job import Job
from flaxcnn.engine.loop import EpochReport, Progress, check_finite, epochs, resumed, spike
from flaxcnn.engine.make_job import make_job
from flaxcnn.engine.midway import BEGINNING, Midway, restored, underway
from flaxcnn.engine.promises import of_job
from flaxcnn.engine.saved import Result
from flaxcnn.engine.score import Counts, conclude, count_dead, dead_layers
from flaxcnn.engine.step import TrainState
from flaxcnn.errors import ConfigError, DivergedError, InterruptedRun, PeerLostError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.networks import own_sources
from flaxcnn.records.card import CURVE, curve_svg, run_readme
from flaxcnn.records.environment import jax_settings, unusual
from flaxcnn.records.files import as_read, plain
from flaxcnn.records.run import RunDirectory

log = logging.getLogger(__name__)


def fit(
    config: Config,
    dataset: Dataset,
    run_dir: Path,
    *,
    name: str = "",
    resume: bool = False,
    checkpoint_dir: str | Path | None = None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda metrics: None,
    on_note: Callable[[str], None] = log.warning,
) -> Result:
    """Train a recipe in `run_dir` and test the kept weights once.

    Args:
        config: the recipe.
        dataset: what `flaxcnn.data.datasets.load_for(config)` gives.
        run_dir: a new or empty folder, or with `resume` that of an earlier start.
        name: of the experiment, for the records.
        resume: go on from the newest whole checkpoint; a finished run is returned as it is.
        checkpoint_dir: where checkpoints go, also gs://; by default into `run_dir`. With
            `resume` and an empty `run_dir`, the records are written from the checkpoint there.
        on_epoch: called with each epoch's metrics after they are written.
        on_note: called with each warning worth a person's attention.

    Raises:
        ConfigError, DataError: the recipe does not fit the data or the run directory.
        ReaderError: a process that decodes images was killed; the run can be resumed.
        DivergedError, OutOfMemoryError: earlier epochs and checkpoints stay.
        CheckpointError: resuming, and every checkpoint is damaged.
        WriteError: something cannot be written.
        InterruptedRun: a signal (`flaxcnn.signals`), after the state was written.
        PeerLostError: another process of the run is gone.
    """
    with training(
        config, dataset, run_dir, name=name, resume=resume, checkpoint_dir=checkpoint_dir,
        on_epoch=on_epoch, on_note=on_note,
    ) as run:  # fmt: skip
        for _ in run.epochs():
            pass
        return run.finish()


@contextlib.contextmanager
def training(
    config: Config,
    dataset: Dataset,
    run_dir: Path,
    *,
    name: str = "",
    resume: bool = False,
    checkpoint_dir: str | Path | None = None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda metrics: None,
    on_note: Callable[[str], None] = log.warning,
) -> Iterator[Training]:
    """A run, opened to be trained; arguments and errors are those of `fit`.

    However the block is left, the run can be resumed: its folder has all epochs that ended, and
    signals have their usual effect again.
    """
    prepare()
    with hosts.lost_peers(), enough_memory():
        hosts.agree({
            "recipe": config.fingerprint(), "data": dataset.digest, "folder": str(run_dir),
            "settings of jax": json.dumps(jax_settings()), "grace": str(config.grace),
        })  # fmt: skip
        sources = own_sources(config)
        with doing("bringing the data to the device"):
            job = make_job(config, dataset)
        promises = of_job(job)
    speaks = hosts.primary()
    if not speaks:
        on_epoch = on_note = _silent
    with (
        contextlib.closing(job),
        RunDirectory(run_dir, writes=speaks).open(config, resume, dataset.digest) as run,
        Interrupt(config.grace) as interrupt,
        _status(run),
        hosts.lost_peers(),
        enough_memory(),
        Checkpoints(run.checkpoint_folder(checkpoint_dir)) as checkpoints,
    ):
        if not resume and checkpoints.used():
            raise ConfigError(
                f"{checkpoints.folder} holds checkpoints of another run: go on from them with "
                "--resume, or give another --checkpoint-dir"
            )
        run.keep_sources(sources)
        for text in notes_on_code(run, config, promises):
            on_note(text)
        begun = _begin(job, run, checkpoints if resume else None, name, on_note)
        # All of it: where memory ran out, a part alone would be waited for without end
        saved = int(jax.block_until_ready(begun.state).step)
        tell = (on_epoch, on_note)
        yield Training(job, run, checkpoints, interrupt, name, *tell, begun, saved)


@contextlib.contextmanager
def _status(run: RunDirectory) -> Iterator[None]:
    """Note in the run's directory how it ended, unless it is complete."""
    try:
        yield
    except (InterruptedRun, PeerLostError) as error:
        run.set_status("interrupted", reason=str(error))
        raise
    except DivergedError as error:
        run.set_status("diverged", reason=str(error))
        raise
    except GeneratorExit:  # a loop of the user's own ends here
        run.set_status("interrupted", reason="left before its last epoch")
        raise
    except Exception as error:
        run.set_status("failed", reason=f"{type(error).__name__}: {error}")
        raise


@dataclass(frozen=True)
class Stage:
    """How far a run is."""

    state: TrainState
    progress: Progress
    midway: Midway  # through the next epoch
    history: list[dict[str, Any]]  # the lines of metrics.jsonl
    dead: Counts  # relu units at initialisation
    environment: dict[str, Any]  # env.json
    data: dict[str, Any]  # data.json


@dataclass
class Training:
    """A run under way: its epochs, one after the other, and then its end."""

    job: Job
    run: RunDirectory
    checkpoints: Checkpoints
    interrupt: Interrupt
    name: str  # of the experiment
    on_epoch: Callable[[dict[str, Any]], None]
    on_note: Callable[[str], None]
    stage: Stage
    saved: int = 0  # steps of the run that the newest checkpoint has

    def epochs(self) -> Iterator[EpochReport]:
        """The epochs that are left, each yielded when its line and its checkpoint are written."""
        config, run, stage = self.job.config, self.run, self.stage
        history, more = stage.history, (stage.midway, self._keep)
        for report in epochs(self.job, stage.state, stage.progress, self.interrupt, *more):
            state, progress = report.state, report.progress
            self.stage = dataclasses.replace(
                self.stage, state=state, progress=progress, midway=BEGINNING
            )
            history.append(plain(report.metrics))
            run.add_epoch(history)
            self.on_epoch(report.metrics)
            if text := spike(history):
                self.on_note(text)
            self._check_finite(report)
            done, stopping = progress.done(config), self.interrupt.coming()
            due = progress.epoch % config.save_every == 0
            if saved := done or stopping or progress.best_epoch == progress.epoch or due:
                self._save()
            if stopping and not done:
                self.interrupt.stop(f"stopped after epoch {progress.epoch}")
            try:
                yield report
            except GeneratorExit:  # a loop of the user's own is left
                if not saved:
                    self._save()
                raise

    def _save(self) -> None:
        """Write the checkpoint of the epoch that has just ended."""
        progress = self.stage.progress
        state = sharding.gather(self.stage.state)
        self.checkpoints.save(progress.epoch, state, self._record(), progress.best_epoch)
        self.saved = int(state.step)

    def _keep(self, state: TrainState, midway: Midway) -> None:
        """Write a checkpoint within an epoch, unless nothing was done since the last one."""
        if (step := int(state.step)) != self.saved:
            before = midway.before and sharding.gather(midway.before)
            midway = dataclasses.replace(midway, before=before)
            arrays = underway(self.job.plan, sharding.gather(state), midway)
            self.checkpoints.save_within(step, arrays, self._record() | midway.record())

    def _record(self) -> dict[str, Any]:
        """What a checkpoint says beside its arrays."""
        return {
            **dataclasses.asdict(self.stage.progress), "config": self.job.config.to_dict(),
            "history": self.stage.history, "data": self.job.dataset.digest,
            "environment": self.stage.environment,
        }  # fmt: skip

    def _check_finite(self, report: EpochReport) -> None:
        """DivergedError for an epoch that is not finite, once the epochs before it are concluded.

        So the last good weights can be evaluated, predicted with and started from.
        """
        try:
            check_finite(report.metrics, report.progress, self.job.config)
        except DivergedError as error:
            if good := self.checkpoints.epochs():
                kept = self._conclude_before(report, good[-1])
                error.args = (f"{error}; {self.run.path} keeps the weights of epoch {kept}",)
            raise

    def _conclude_before(self, report: EpochReport, epoch: int) -> int:
        """Write the records of a run that diverged, as of its last checkpoint -> the kept epoch."""
        saved = self.checkpoints.restore(epoch, report.state)[1]
        progress, history = resumed(self.job, saved)
        self._conclude(progress, history, diverged_epoch=report.progress.epoch)
        return progress.kept(self.job.config)

    def finish(self) -> Result:
        """Test the kept weights, once, and write what is known at the end."""
        with doing("testing the kept weights"):
            return self._finish()

    def _finish(self) -> Result:
        job, run, stage = self.job, self.run, self.stage
        state, summary = self._conclude(stage.progress, stage.history)
        config = as_read(job.config.to_dict())
        status = run.set_status("complete", epoch=stage.progress.epoch)
        return Result(
            run.path, summary, stage.environment, config=config, recipe=job.config,
            history=stage.history, data=stage.data, status=status, state=state,
        )  # fmt: skip

    def _conclude(
        self, progress: Progress, history: list[dict[str, Any]], **more: Any
    ) -> tuple[TrainState, dict[str, Any]]:
        """Test the kept weights, and write the records -> these weights, and summary.json."""
        job, run, stage = self.job, self.run, self.stage
        kept = progress.kept(job.config)
        state = chosen(job.config, self.checkpoints.restore(kept, stage.state)[0])
        dead = count_dead(job, state)
        summary = conclude(job, state, progress, history, self.name, (stage.dead, dead)) | more
        write_predictions(job, run, state)
        write_filters(job, run, state)
        config = as_read(job.config.to_dict())
        run.write_text(CURVE, curve_svg(history))
        run.write_text("README.md", run_readme(config, summary, history, dead, stage.data))
        run.write_json("summary.json", summary)
        return state, summary


def _begin(
    job: Job, run: RunDirectory, checkpoints: Checkpoints | None, name: str,
    on_note: Callable[[str], None],
) -> Stage:  # fmt: skip
    """The start of a run, or its newest checkpoint where `checkpoints` are given."""
    config = job.config
    state, progress, midway = job.init(), Progress(), BEGINNING
    dead = count_dead(job, state)
    history: list[dict[str, Any]] = []
    if checkpoints and (newest := _newest(checkpoints, job, state)):
        state, midway, saved = newest
        progress, history = resumed(job, saved)
        check_continuity(run, saved, on_note)
    elif checkpoints and (lost := len(run.history())):
        on_note(
            f"{run.path} has {lost} epochs on record, but there is no checkpoint in "
            f"{checkpoints.folder}: training starts again from epoch 1"
        )
    run.begin(history)
    run.set_status("running", epoch=progress.epoch)
    env, data = describe(job, run, name)
    padding = sharding.padding_warning(config, job.plan.sharding)
    started = job.start.notes if job.start else ()
    about = (
        padding, note_on_test(job), data.get("imbalance"), unusual(),
        room(run.checkpoint_folder(), state),
    )  # fmt: skip
    told = [text for text in about if text]
    warnings = [*config.warnings(), *told, *dead_layers(dead), *started]
    for text in warnings:
        on_note(text)
    return Stage(state, progress, midway, history, dead, env, data)


def _newest(
    checkpoints: Checkpoints, job: Job, like: TrainState
) -> tuple[TrainState, Midway, dict[str, Any]] | None:
    """The newest checkpoint that is whole, be it within an epoch, with its record."""
    begun = Midway(before=like) if job.config.on_nonfinite == "rollback" else BEGINNING
    if found := checkpoints.restore_within(underway(job.plan, like, begun)):
        return *restored(job.plan, *found), found[1]
    whole = checkpoints.restore_newest(like)
    return whole and (whole[0], BEGINNING, whole[1])


def _silent(_: Any) -> None:
    """Of several processes, one speaks."""
