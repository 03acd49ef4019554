"""The checks: each trains or reads something, and says in a line what it saw."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from flaxcnn.checks.task import Task
from flaxcnn.engine.checkpoint import Checkpoints
from flaxcnn.engine.make_job import make_job
from flaxcnn.engine.promises import of_job
from flaxcnn.engine.saved import Result, classify, open_run
from flaxcnn.engine.train import fit
from flaxcnn.errors import (
    CheckpointError,
    DivergedError,
    FlaxcnnError,
    InterruptedRun,
    first_line,
)
from flaxcnn.recipe.networks import only_here
from flaxcnn.studies.study import study

Verdict = Literal["ok", "failed", "skipped"]
# Of a loss, where sums may be taken in another order: a dozen updates make more of a last bit.
AGREE = 5e-3
ROW_TOLERANCE = 1e-5  # of a probability, alone and beside other rows
ROWS = 7  # of a batch that another one is padded to
FLIPPED = 64  # bytes from one flipped bit to the next: not all bytes of a file are in use
SYNCS = 5
SAFETY_NET = 600.0  # seconds after which a process that trains counts as hung


@dataclass(frozen=True)
class Finding:
    """What a check has shown."""

    name: str
    verdict: Verdict
    detail: str
    seconds: float


class _Failed(Exception):
    """A check has failed; the text says what was seen."""


class _Skipped(Exception):
    """A check cannot be made here; the text says why."""


def findings(task: Task, grace: float) -> Iterator[Finding]:
    """All checks, one after the other; the others need the first run."""
    began = time.perf_counter()
    try:
        first = _fit(task, "first")
    except DivergedError as error:
        yield Finding("gradients", "failed", str(error), time.perf_counter() - began)
        return
    checks: dict[str, Callable[[], str]] = {
        "gradients": lambda: _gradients(task, first),
        "same bits twice": lambda: _same(first, _fit(task, "again")),
        "killed and resumed": lambda: _killed(task, first),
        "alone as in a study": lambda: _in_a_study(task, first),
        "devices": lambda: _devices(task, first),
        "padded batch": lambda: _padded(task, first),
        "damaged checkpoint": lambda: _damaged(task, first),
        "time to save": lambda: _saving(task, first, grace),
    }
    for number, (name, check) in enumerate(checks.items()):
        yield _found(name, check, began if number == 0 else time.perf_counter())


def _fit(task: Task, run: str, resume: bool = False) -> Result:
    """Train it; what a training warns of was said of the recipe itself."""
    return fit(
        task.config, task.dataset, task.folder / run, resume=resume, on_note=lambda text: None
    )


def _found(name: str, check: Callable[[], str], began: float) -> Finding:
    verdict: Verdict = "ok"
    try:
        detail = check()
    except _Skipped as error:
        verdict, detail = "skipped", str(error)
    except InterruptedRun:
        raise
    except (_Failed, FlaxcnnError) as error:
        verdict, detail = "failed", str(error)
    except Exception as error:  # of the network's own code, or of a library
        verdict, detail = "failed", f"{type(error).__name__}: {first_line(error)}"
    return Finding(name, verdict, detail, time.perf_counter() - began)


def _gradients(task: Task, first: Result) -> str:
    """Finite, and none of them always 0: each array of weights has moved."""
    job = make_job(task.config, task.dataset)
    before = jax.tree_util.tree_leaves_with_path(jax.device_get(job.init().params))
    job.close()
    with Checkpoints(first.path / "checkpoints", writes=False) as checkpoints:
        last = checkpoints.restore(checkpoints.epochs()[-1], first.state)[0]
    after = jax.tree.leaves(jax.device_get(last.params))
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in before]
    bad = [n for n, now in zip(names, after, strict=True) if not np.isfinite(now).all()]
    if bad:
        raise _Failed(f"not finite: {', '.join(bad[:3])}")
    still = [n for n, (_, old), now in zip(names, before, after, strict=True) if (old == now).all()]
    if still and not (task.config.freeze or _whitened(task)):
        raise _Failed(f"never changed: {', '.join(still[:3])}; no gradient reaches it")
    return f"finite, and all {len(names)} arrays of weights move"


def _whitened(task: Task) -> bool:
    return any(getattr(layer, "init", "") == "whiten" for layer in task.config.layers)


def _same(one: Result, other: Result) -> str:
    """The same weights to the last bit, and the same epochs."""
    if one.summary["params_digest"] != other.summary["params_digest"]:
        raise _Failed(f"other weights: {_apart(one, other)}")
    return f"weights {one.summary['params_digest'][:12]}... both times"


def _apart(one: Result, other: Any) -> str:
    losses = [run.summary["test_loss"] for run in (one, other)]
    return f"test loss {losses[0]:.6g} and {losses[1]:.6g}"


def _killed(task: Task, first: Result) -> str:
    """SIGKILL after an epoch, in a process of its own; then resumed here."""
    run = task.folder / "killed"
    if (text := only_here(task.config)) is not None:
        raise _Skipped(text)
    child = task.child("killed", jax.local_device_count("cpu"))
    try:
        _await(child, lambda: (run / "checkpoints" / "1").is_dir())
        done = _lines(run / "metrics.jsonl")
    finally:
        child.send_signal(signal.SIGKILL)
        _, err = child.communicate()
    if done < 1:
        raise _Failed(f"the process ended before an epoch: {_last(err)}")
    resumed = _fit(task, "killed", resume=True)
    _same(first, resumed)
    return f"killed after epoch {done} of {task.config.epochs}: the same bits in the end"


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


def _await(child: Any, done: Callable[[], bool]) -> None:
    until = time.monotonic() + SAFETY_NET
    while child.poll() is None and not done() and time.monotonic() < until:
        time.sleep(0.01)


def _last(err: bytes) -> str:
    lines = err.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _in_a_study(task: Task, first: Result) -> str:
    """Its seed beside another one."""
    seed = task.config.seed
    found = study(task.config, [seed, seed + 1], study_dir=task.folder / "study",
                  dataset=task.dataset)  # fmt: skip
    row = next(row for row in found.rows if row["seed"] == seed)
    return _agree(task, first.summary, row, "in a study of two seeds")


def _agree(task: Task, alone: dict[str, Any], there: dict[str, Any], where: str) -> str:
    if alone["params_digest"] == there["params_digest"]:
        return f"the same bits {where}"
    one, other = alone["test_loss"], there["test_loss"]
    if task.config.determinism == "exact":
        raise _Failed(f"determinism=exact, but other weights {where}")
    if abs(one - other) > AGREE * max(abs(one), abs(other)):
        raise _Failed(f"test loss {one:.6g}, but {other:.6g} {where}")
    return f"equal to rounding {where}: test loss {one:.6g} and {other:.6g}"


def _devices(task: Task, first: Result) -> str:
    """One CPU device against two, in processes of their own."""
    if jax.default_backend() != "cpu":
        raise _Skipped("virtual devices are those of a CPU")
    if (text := only_here(task.config)) is not None:
        raise _Skipped(text)
    runs = []
    for count in (1, 2):
        child = task.child(f"devices-{count}", count)
        try:
            _await(child, lambda: False)
        finally:
            child.kill()
            _, err = child.communicate()
        if not (task.folder / f"devices-{count}" / "summary.json").is_file():
            raise _Failed(f"with {count} devices: {_last(err)}")
        runs.append(open_run(task.folder / f"devices-{count}").summary)
    return _agree(task, runs[0], runs[1], "on two devices")


def _padded(task: Task, first: Result) -> str:
    """What a row gives does not depend on the rows beside it, nor on padding."""
    image = np.asarray(task.dataset.test.image[: ROWS + 1])
    some, more = classify(first, image[:ROWS]), classify(first, image)[:ROWS]
    apart = float(np.abs(some[: len(more)] - more).max())
    if not apart <= ROW_TOLERANCE:
        raise _Failed(f"a row's probabilities change by {apart:.2g} with the rows beside it")
    job = make_job(task.config, task.dataset)
    try:
        promises = of_job(job)
    finally:
        job.close()
    if promises is not None and (broken := promises.broken()):
        raise _Failed("; ".join(broken))
    return "rows of padding, and their order, change nothing"


def _damaged(task: Task, first: Result) -> str:
    """Bits of the kept weights are flipped; reading them must fail."""
    copy = Path(shutil.copytree(first.path, task.folder / "damaged"))
    for file in (copy / "checkpoints").rglob("*"):
        if file.is_file() and file.stat().st_size > FLIPPED:
            data = np.fromfile(file, np.uint8)
            data[FLIPPED // 2 :: FLIPPED] ^= 4
            data.tofile(file)
    try:
        open_run(copy)
    except CheckpointError as error:
        return f"found: {str(error)[:60]}..."
    raise _Failed("weights with flipped bits were read without a word")


def _saving(task: Task, first: Result, grace: float) -> str:
    """Time to write a checkpoint of this network to the disk of the runs, and to flush a file."""
    with tempfile.TemporaryDirectory(dir=task.folder) as folder:
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(1, first.state, {}, None)
            began = time.perf_counter()
            checkpoints.save(2, first.state, {}, None)
        seconds = time.perf_counter() - began
    synced = statistics.median(_sync(task.folder) for _ in range(SYNCS))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(first.state)) / 1e6
    text = f"{size:.1f} MB in {seconds:.2f} s, a flush in {1000 * synced:.1f} ms"
    if seconds > grace:
        raise _Failed(f"{text}: longer than the {grace:g} s between a signal and the end")
    return f"{text}; {grace:g} s are given"


def _sync(folder: Path) -> float:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x" * 4096)
        file.flush()
        began = time.perf_counter()
        os.fsync(file.fileno())
        return time.perf_counter() - began
