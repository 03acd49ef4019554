"""`flaxcnn train`."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from flaxcnn.activity import doing
from flaxcnn.cli import options
from flaxcnn.cli.options import check_environment
from flaxcnn.cli.output import command, emit_json, hanging, note, quiet, say, short
from flaxcnn.cli.processes import Group, joined
from flaxcnn.cli.progress import Progress, progress
from flaxcnn.cli.report import report_after
from flaxcnn.errors import CheckpointError
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import GROUPS, Config
from flaxcnn.recipe.fields import settings
from flaxcnn.recipe.layers import totals
from flaxcnn.records.folder import new_run, runs_folder
from flaxcnn.records.format import count_text
from flaxcnn.records.views import epoch_line
from flaxcnn.reports.tensorboard import EventFiles, require

Seed = Annotated[
    int | None,
    typer.Option("--seed", help="Seed of initialisation, order, augmentation and dropout."),
]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", help="Run directory (default runs/NAME/ID).")
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")]
TensorBoard = Annotated[
    bool,
    typer.Option("--tensorboard", help="Write TensorBoard event files to RUN/tensorboard."),
]
PrintConfig = Annotated[
    bool,
    typer.Option("--print-config", help="Print all settings with their origins and exit."),
]


@command
def train(
    experiment: options.Experiment = catalog.DEFAULT_EXPERIMENT,
    assignments: options.Assignments = None,
    config_file: options.ConfigFile = None,
    seed: Seed = None,
    run_dir: RunDir = None,
    resume: Resume = False,
    resume_if_any: options.ResumeIfAny = False,
    checkpoint_dir: options.CheckpointDir = None,
    parallel: options.Parallel = None,
    grace: options.Grace = None,
    sdc_check: options.SdcCheck = None,
    distributed: options.Distributed = False,
    coordinator: options.Coordinator = None,
    processes: options.Processes = None,
    process: options.Process = None,
    protocol: options.Protocol = None,
    tensorboard: TensorBoard = False,
    print_config: PrintConfig = False,
    no_cache: options.NoCache = False,
    as_json: options.Json = False,
) -> None:
    """Train a model, keep its best epoch by validation accuracy, and test it once.

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
    recipe = catalog.find(experiment)
    check_environment()
    given = {"parallel": parallel, "grace": grace, "sdc_check": sdc_check}
    words = [f"{name}={value}" for name, value in given.items() if value is not None]
    assignments = [*(assignments or []), *words]
    config, origins = catalog.resolve(
        recipe, assignments=assignments, config_file=config_file, protocol=protocol, seed=seed
    )
    if print_config:
        _print_config(config, origins, as_json)
        return
    if tensorboard:
        require("--tensorboard")
    start = _start(recipe.name, config, run_dir, checkpoint_dir, resume, resume_if_any)
    changed = [word for each in assignments for word in ("-s", each)]
    seeds = ["flaxcnn", "study", experiment, "--seeds", "8", *changed]
    group = Group(distributed, coordinator, processes, process)
    _run(
        recipe.name, config, start, group,
        tensorboard=tensorboard, cache=not no_cache, as_json=as_json,
        more="" if config_file else shlex.join(seeds),
    )  # fmt: skip


class Start(NamedTuple):
    """Where a run is, and whether it may have started there before."""

    path: Path
    resume: bool
    checkpoint_dir: str | None


def _run(
    name: str,
    config: Config,
    start: Start,
    group: Group,
    *,
    tensorboard: bool,
    cache: bool,
    as_json: bool,
    more: str = "",
) -> None:
    """Load the data, join the other processes, train and report."""
    from flaxcnn.data.datasets import load_for

    quiet()
    with progress(as_json) as bar:
        with doing(f"reading {config.dataset}"):  # before jax, so that missing data fails at once
            dataset = load_for(config)
        with doing("starting JAX"):
            from flaxcnn.backend import prepare
            from flaxcnn.engine import hosts
            from flaxcnn.engine.train import fit
        with joined(group), contextlib.ExitStack() as watching:
            with doing("starting JAX"):
                prepare(cache)
            # Only now: a network of one's own is traced, which starts JAX with the devices it has
            counts = totals(config.table(dataset.shape, dataset.num_classes))
            path = Path(hosts.same_text(str(start.path.expanduser().absolute())))
            bar.speaks = hosts.primary()
            if bar.speaks:
                say(
                    f"{name}: {counts['params']:,} parameters on {config.dataset}, "
                    f"{count_text(config.epochs, 'epoch')} of batch {config.batch_size}, "
                    f"seed {config.seed}, {config.protocol} protocol{hosts.described()}",
                    as_json,
                )
            watchers = [_epochs(bar, config.epochs, as_json)]
            if tensorboard and bar.speaks:
                watchers.append(watching.enter_context(EventFiles(path, note)))

            def show(metrics: dict[str, Any]) -> None:
                for watch in watchers:
                    watch(metrics)

            result = fit(
                config, dataset, path, name=name, resume=start.resume,
                checkpoint_dir=start.checkpoint_dir, on_epoch=show, on_note=note,
            )  # fmt: skip
            page = report_after(result.path, dataset) if bar.speaks else None
    if bar.speaks:
        _conclude(config, result.summary, result.path, page, more, as_json)


def _epochs(bar: Progress, epochs: int, as_json: bool) -> Callable[[dict[str, Any]], None]:
    """Print a line per epoch, and move the bar."""
    bar.plan(epochs, "epoch")

    def show(metrics: dict[str, Any]) -> None:
        if not bar.done and metrics["epoch"] > 1:  # the run was resumed
            bar.plan(epochs, "epoch", metrics["epoch"] - 1)
        bar.at(metrics["epoch"])
        say(bar.fitted(epoch_line(metrics, epochs)), as_json)

    return show


def _print_config(config: Config, origins: dict[str, str], as_json: bool) -> None:
    plain = config.to_dict()
    if as_json:
        emit_json({"config": plain, "origins": origins, "fingerprint": config.fingerprint()})
        return
    for group in GROUPS:
        say(f"# {group.__name__.lower()}")
        for key, _ in settings(group):
            nested = [
                f"{path} from {origin}"
                for path, origin in origins.items()
                if path.startswith(f"{key}.")
            ]
            say(f"{key} = {json.dumps(plain[key])}  # {'; '.join([origins[key], *nested])}")


def _start(
    name: str,
    config: Config,
    chosen: Path | None,
    checkpoint_dir: str | None,
    resume: bool,
    if_any: bool,
) -> Start:
    if chosen is not None:
        # Checkpoints in another place may outlive the machine that the records were on.
        started = (chosen.expanduser() / "config.json").is_file() or checkpoint_dir is not None
        if resume and not started:
            raise CheckpointError(f"--resume: there is no run in {chosen}")
        return Start(chosen, resume or if_any, checkpoint_dir)
    folder = runs_folder() / name
    if resume or if_any:
        try:
            return Start(_newest(folder, config), True, checkpoint_dir)
        except CheckpointError:
            if resume:
                raise
    return Start(new_run(name, config.seed), if_any, checkpoint_dir)


def _newest(folder: Path, config: Config) -> Path:
    """The latest run of this recipe, which `--resume` without --run-dir resumes."""
    for path in sorted(folder.glob("*/config.json"), reverse=True):
        with contextlib.suppress(OSError, ValueError):
            recorded = Config.from_dict(json.loads(path.read_text()))
            if recorded.fingerprint() == config.fingerprint():
                return path.parent
    raise CheckpointError(
        f"--resume: there is no run of this recipe and seed in {folder}; give --run-dir"
    )


def _conclude(
    config: Config, summary: dict[str, Any], path: Path, page: Path | None, more: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Print what came of it, and what one may do next."""
    flag = " [document protocol]" if summary["protocol"] == "document" else ""
    which = f" ({'highest' if config.rises else 'lowest'} {config.monitored})"
    here, shown = short(path), short(page or path / "README.md")
    dead = summary["dead_layers"]
    kept = hanging(
        "weights ",
        f"of epoch {summary['kept_epoch']} of {summary['epochs_run']}"
        f"{which if config.keep == 'best' else ''}: "
        f"validation accuracy {summary['val_accuracy']:.4f}, "
        f"training accuracy {summary['train_accuracy']:.4f}",
    )
    say(
        f"\ntest accuracy {summary['test_accuracy']:.4f}, loss {summary['test_loss']:.4f}{flag}\n"
        f"{kept}\n"
        f"{summary['seconds']:.1f} s of training, "
        f"{summary['compile_seconds']:.1f} s of compilation, "
        f"{summary['images_per_second']:,.0f} images/s on {summary['device']}\n"
        + (f"no ReLU unit is alive in {', '.join(dead)}: lower learning_rate\n" if dead else "")
        + f"run    {here}\nreport {shown}\n\n"
        f"next   flaxcnn report {here} --open\n"
        f"       flaxcnn predict {here} IMAGE.png" + (f"\n       {more}" if more else ""),
        as_json,
    )
    if as_json:
        emit_json({**summary, "run_dir": str(path)})
