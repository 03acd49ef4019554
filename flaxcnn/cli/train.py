"""`flaxcnn train`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from flaxcnn.cli.options import (
    ASSIGNMENTS,
    CHECKPOINT_DIR,
    CONFIG_FILE,
    COORDINATOR,
    DISTRIBUTED,
    EXPERIMENT,
    JSON,
    NO_CACHE,
    PARALLEL,
    PROCESS,
    PROCESSES,
    PROTOCOL,
    RESUME_IF_ANY,
)
from flaxcnn.cli.output import command, emit_json, note, quiet, say
from flaxcnn.cli.processes import Group, joined
from flaxcnn.cli.report import report_after
from flaxcnn.engine.card import epoch_line
from flaxcnn.errors import CheckpointError, near_miss
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import totals
from flaxcnn.records.folder import new_run, runs_folder
from flaxcnn.report.tensorboard import EventFiles, require

SETTINGS_OF_OURS = (
    "ARCHIVES", "DATA_DIR", "CACHE_DIR", "RUNS_DIR", "START_SECONDS", "DEBUG", "GPU_GRAPHS",
    "ACCELERATORS",
)  # fmt: skip


@command
def train(
    experiment: str = EXPERIMENT,
    assignments: list[str] = ASSIGNMENTS,
    config_file: Path = CONFIG_FILE,
    seed: int = typer.Option(None, "--seed", help="Seed of initialisation, order and dropout."),
    run_dir: Path = typer.Option(None, "--run-dir", help="Where to write; default runs/NAME/ID."),
    resume: bool = typer.Option(False, "--resume", help="Go on with an interrupted run."),
    resume_if_any: bool = RESUME_IF_ANY,
    checkpoint_dir: str = CHECKPOINT_DIR,
    parallel: str = PARALLEL,
    distributed: bool = DISTRIBUTED,
    coordinator: str = COORDINATOR,
    processes: int = PROCESSES,
    process: int = PROCESS,
    protocol: str = PROTOCOL,
    tensorboard: bool = typer.Option(
        False, "--tensorboard", help="Write event files to RUN/tensorboard, epoch by epoch."
    ),
    print_config: bool = typer.Option(
        False, "--print-config", help="Show every value with its origin, and train nothing."
    ),
    no_cache: bool = NO_CACHE,
    as_json: bool = JSON,
) -> None:
    """Train a model, keep its best epoch by validation, and test it once.

    \b
    Examples:
      flaxcnn train
      flaxcnn train mnist-ladder/model10
      flaxcnn train mnist-ladder/model10 -s epochs=3 -s optimizer=sgd -s optimizer.momentum=0.9
      flaxcnn train my_models.py:small -s dataset=folder:~/flowers --run-dir runs/flowers
      flaxcnn train mnist-ladder/model10 --run-dir runs/m10 --resume
      flaxcnn train mnist-ladder/model10 --tensorboard
      flaxcnn train mnist-ladder/model10 --parallel pmap
      flaxcnn train mnist-ladder/model10 --distributed --run-dir runs/m10 --resume-if-any
    """
    found = catalog.find(experiment)
    check_environment()
    if parallel is not None:
        assignments = [*assignments, f"parallel={parallel}"]
    config, origins = catalog.resolve(
        found, assignments=assignments, config_file=config_file, protocol=protocol, seed=seed
    )
    if print_config:
        _print_config(config, origins, as_json)
        return
    if tensorboard:
        require("--tensorboard")
    path, resume = _run_directory(
        found.name, config, run_dir, checkpoint_dir, resume, resume_if_any
    )
    group = Group(distributed, coordinator, processes, process)
    _run(
        found.name, config, path, resume, checkpoint_dir, tensorboard, group, not no_cache, as_json
    )  # fmt: skip


def _run(
    name: str, config: Config, path: Path, resume: bool, checkpoint_dir: str | None,
    tensorboard: bool, group: Group, cache: bool, as_json: bool,
) -> None:  # fmt: skip
    """Load, join the other processes, train and tell."""
    from flaxcnn.data.datasets import load_for

    dataset = load_for(config)  # before jax is imported: missing data is said at once
    counts = totals(config.table(dataset.shape, dataset.num_classes))
    from flaxcnn.backend import prepare
    from flaxcnn.engine import hosts
    from flaxcnn.engine.train import fit

    quiet()
    with joined(group):
        prepare(cache)
        path = Path(hosts.same_text(str(path.expanduser().absolute())))
        if hosts.primary():
            say(
                f"{name}: {counts['params']:,} parameters on {config.dataset}, "
                f"{config.epochs} epochs of batch {config.batch_size}, seed {config.seed}, "
                f"{config.protocol} protocol{hosts.described()}",
                as_json,
            )
        with contextlib.ExitStack() as watching:
            watchers = [watching.enter_context(_progress(config.epochs, as_json))]
            if tensorboard and hosts.primary():
                watchers.append(watching.enter_context(EventFiles(path, note)))

            def show(metrics: dict[str, Any]) -> None:
                for watch in watchers:
                    watch(metrics)

            result = fit(
                config, dataset, path, name=name, resume=resume,
                checkpoint_dir=checkpoint_dir, on_epoch=show, on_note=note,
            )  # fmt: skip
        if hosts.primary():
            page = report_after(result.path, dataset)
            _conclude(result.summary, result.path, page, as_json)


def check_environment() -> None:
    """FLAXCNN_* that mean nothing are said, not silently ignored."""
    known = {*SETTINGS_OF_OURS, *(name.upper() for name in Config.__dataclass_fields__)}
    for name in os.environ:
        word = name.removeprefix("FLAXCNN_")
        if word != name and word.partition("__")[0] not in known:
            note(f"{name} means nothing and is ignored{near_miss(word, known)}")


def _print_config(config: Config, origins: dict[str, str], as_json: bool) -> None:
    plain = config.to_dict()
    nested = {key: origin for key, origin in origins.items() if "." in key}
    if as_json:
        emit_json({"config": plain, "origins": origins, "fingerprint": config.fingerprint()})
        return
    for key, value in plain.items():
        inner = [
            f"{path} from {where}" for path, where in nested.items() if path.startswith(f"{key}.")
        ]
        say(f"{key} = {json.dumps(value)}  # {'; '.join([origins[key], *inner])}")


def _run_directory(
    name: str, config: Config, chosen: Path | None, checkpoint_dir: str | None,
    resume: bool, if_any: bool,
) -> tuple[Path, bool]:  # fmt: skip
    """Where the run goes, and whether it may find an earlier start there."""
    if chosen is not None:
        # Checkpoints elsewhere may outlive the machine that the records were on.
        holds = (chosen.expanduser() / "config.json").is_file() or checkpoint_dir is not None
        if resume and not holds:
            raise CheckpointError(f"--resume: {chosen} holds no run")
        return chosen, resume or if_any
    folder = runs_folder() / name
    if resume or if_any:
        try:
            return _newest(folder, config), True
        except CheckpointError:
            if resume:
                raise
    return new_run(name, config.seed), if_any


def _newest(folder: Path, config: Config) -> Path:
    """The latest run of this recipe that `--resume` without --run-dir means."""
    for path in sorted(folder.glob("*/config.json"), reverse=True):
        with contextlib.suppress(OSError, ValueError):
            found = Config.from_dict(json.loads(path.read_text()))
            if found.fingerprint() == config.fingerprint():
                return path.parent
    raise CheckpointError(
        f"--resume: no run of this recipe and seed in {folder}; name it with --run-dir"
    )


@contextlib.contextmanager
def _progress(epochs: int, as_json: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """One line an epoch; on a terminal a bar under them."""
    stream = sys.stderr if as_json else sys.stdout
    if not stream.isatty():
        yield lambda metrics: say(epoch_line(metrics, epochs), as_json)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("epochs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task("epochs", total=epochs)

        def show(metrics: dict[str, Any]) -> None:
            bar.console.print(epoch_line(metrics, epochs), highlight=False)
            bar.update(task, completed=metrics["epoch"])

        yield show


def _conclude(summary: dict[str, Any], path: Path, page: Path | None, as_json: bool) -> None:
    flag = " [document protocol]" if summary["protocol"] == "document" else ""
    say(
        f"\ntest accuracy {summary['test_accuracy']:.4f}, loss {summary['test_loss']:.4f}{flag}\n"
        f"weights of epoch {summary['kept_epoch']} of {summary['epochs_run']}: "
        f"validation accuracy {summary['val_accuracy']:.4f}, "
        f"training accuracy {summary['train_accuracy']:.4f}\n"
        f"{summary['seconds']:.1f} s of training, "
        f"{summary['compile_seconds']:.1f} s of compilation, "
        f"{summary['images_per_second']:,.0f} images/s on {summary['device']}\n"
        f"dead relu units {summary['dead_units']} of {summary['relu_units']} "
        f"({summary['dead_units_init']} at initialisation)\n"
        f"run    {path}\nreport {page or path / 'README.md'}",
        as_json,
    )
    if as_json:
        emit_json({**summary, "run_dir": str(path)})
