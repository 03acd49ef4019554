"""One run: `fit` trains epoch by epoch, records, checkpoints, and tests what it kept.

`training` opens the run; `fit` and the loop in a user's own hands, `flaxcnn.epochs`, go through it.
The order within an epoch is fixed: train, validate, compare with the best so far, write the
metrics line, write the checkpoint. So a checkpoint has the lines of all its epochs, and a kill
between any two leaves a run that resumes to the same bits and records: lines after the last
checkpoint are dropped and computed again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxcnn.activity import doing
from flaxcnn.backend import enough_memory, prepare
from flaxcnn.data import splits
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.sampling import class_rows, imbalance
from flaxcnn.engine import hosts, sharding
from flaxcnn.engine.average import chosen
from flaxcnn.engine.checkpoint import Checkpoints
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.job import Job
from flaxcnn.engine.loop import EpochReport, Progress, check_finite, epochs, resumed
from flaxcnn.engine.make_job import make_job
from flaxcnn.engine.promises import Promises, of_job
from flaxcnn.engine.saved import Result
from flaxcnn.engine.score import Counts, conclude, count_dead, dead_layers
from flaxcnn.engine.step import TrainState
from flaxcnn.errors import DivergedError, InterruptedRun, PeerLostError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.recipe.layers import Conv
from flaxcnn.recipe.networks import only_here, own_code, own_sources
from flaxcnn.records.card import CURVE, curve_svg, run_readme
from flaxcnn.records.environment import environment, other_software, unusual
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
        InterruptedRun: SIGTERM or SIGINT, after the last checkpoint was written.
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
            "recipe": config.fingerprint(), "data": dataset.digest, "folder": str(run_dir)
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
        Interrupt() as interrupt,
        _status(run),
        hosts.lost_peers(),
        enough_memory(),
        Checkpoints(run.checkpoint_folder(checkpoint_dir)) as checkpoints,
    ):
        run.keep_sources(sources)
        for text in _own_code(run, config, promises):
            on_note(text)
        begun = _begin(job, run, checkpoints if resume else None, name, on_note)
        yield Training(job, run, checkpoints, interrupt, name, on_epoch, begun)


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
    stage: Stage

    def epochs(self) -> Iterator[EpochReport]:
        """The epochs that are left, each yielded when its line and its checkpoint are written."""
        config, run, history = self.job.config, self.run, self.stage.history
        for report in epochs(self.job, self.stage.state, self.stage.progress, self.interrupt):
            state, progress = report.state, report.progress
            self.stage = dataclasses.replace(self.stage, state=state, progress=progress)
            history.append(plain(report.metrics))
            run.add_epoch(history)
            self.on_epoch(report.metrics)
            self._check_finite(report)
            stopping = hosts.several() and self.interrupt.coming()
            best, due = progress.best_epoch, progress.epoch % config.save_every == 0
            if progress.done(config) or stopping or best == progress.epoch or due:
                record = {
                    **dataclasses.asdict(progress), "config": config.to_dict(), "history": history,
                    "data": self.job.dataset.digest,
                }  # fmt: skip
                self.checkpoints.save(progress.epoch, sharding.gather(state), record, best)
            if stopping and not progress.done(config):
                self.interrupt.stop()
            yield report

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
        _write_predictions(job, run, state)
        _write_filters(job, run, state)
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
    state, progress = job.init(), Progress()
    dead = count_dead(job, state)
    history: list[dict[str, Any]] = []
    if checkpoints and (newest := checkpoints.restore_newest(state)):
        state, saved = newest
        progress, history = resumed(job, saved)
        _check_continuity(run, on_note)
    elif checkpoints and (lost := len(run.history())):
        on_note(
            f"{run.path} has {lost} epochs on record, but there is no checkpoint in "
            f"{checkpoints.folder}: training starts again from epoch 1"
        )
    run.begin(history)
    run.set_status("running", epoch=progress.epoch)
    env, data = _describe(job, run, name)
    padding = sharding.padding_warning(config, job.plan.sharding)
    started = job.start.notes if job.start else ()
    told = [text for text in (padding, _own_test(job), data.get("imbalance"), unusual()) if text]
    warnings = [*config.warnings(), *told, *dead_layers(dead), *started]
    for text in warnings:
        on_note(text)
    return Stage(state, progress, history, dead, env, data)


def _own_code(run: RunDirectory, config: Config, promises: Promises | None) -> list[str]:
    """Write model.json of a network of one's own -> what a person should know of its code."""
    here = only_here(config)
    notes = [here] if here else []
    if promises is None:
        return notes
    run.write_json("model.json", {"keeps": vars(promises), "elsewhere": here is None})
    return notes + [f"{own_code(config)}: {text}" for text in promises.broken()]


def _own_test(job: Job) -> str | None:
    """A sentence, where a person's own data has no test split."""
    data = job.dataset
    if data.test_origin == "archive" or data.name in KNOWN_DATA:
        return None
    return (
        f"the data has no test split: a fixed fifth of its rows ({len(data.test):,}), the same for "
        "every run, is the test split"
    )


def _silent(_: Any) -> None:
    """Of several processes, one speaks."""


def _check_continuity(run: RunDirectory, on_note: Callable[[str], None]) -> None:
    """A resumed run should have the software that it was started with."""
    # Where checkpoints are elsewhere, the folder may be new
    if (run.path / "env.json").is_file() and (text := other_software(run.read_json("env.json"))):
        on_note(text)


def _describe(job: Job, run: RunDirectory, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write what is known before the first step -> env.json and data.json."""
    data, scaling = job.dataset, jax.device_get(job.data.scaling)
    uneven = imbalance(job.config, data, job.rows.train)
    env = run.write_json("env.json", environment())
    run.write_text("split.json", splits.to_json(job.rows))
    about = run.write_json("data.json", {
        "experiment": name, "name": data.name, "digest": data.digest, "shape": list(data.shape),
        "classes": list(data.classes), "test_origin": data.test_origin,
        **({"validation_origin": "archive"} if data.validation else {}),
        **({"source": dict(data.source)} if data.source else {}),
        "split_digest": splits.digest(job.rows),
        "rows": {s: len(getattr(job.rows, s)) for s in ("train", "validation", "test")},
        "mean": scaling.mean.tolist(), "scale": scaling.scale.tolist(),
        "class_rows": class_rows(data, job.rows.train).tolist(),
        **({} if scaling.class_weight is None else
           {"class_weight": scaling.class_weight.tolist()}),
        **({"imbalance": uneven} if uneven else {}),
    })  # fmt: skip
    return env, about


def _write_predictions(job: Job, run: RunDirectory, state: TrainState) -> None:
    """predictions.npz: row [N], label [N], logits [N, K] of the test rows."""
    rows = job.rows.test
    logits = job.predict(state, "test")
    run.write_npz("predictions.npz", row=rows, label=job.labels()[rows], logits=logits)


def _write_filters(job: Job, run: RunDirectory, state: TrainState) -> None:
    """filters.npz: layer and kernel [H, W, C, N] of a network that begins with a convolution."""
    first = job.config.table(job.dataset.shape, job.dataset.num_classes)[0]
    if not isinstance(first.layer, Conv):
        return
    kernel = np.asarray(jax.device_get(state.params[first.name]["kernel"]), np.float32)
    run.write_npz("filters.npz", layer=first.name, kernel=kernel)
