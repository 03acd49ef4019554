"""Runs of several processes: joining the others, and `flaxcnn launch`, which starts them here."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Annotated, NamedTuple

import typer

from flaxcnn.cli.output import command, leave_at_once, note
from flaxcnn.errors import ConfigError, FlaxcnnError, InterruptedRun
from flaxcnn.hardware import free_port, gpus
from flaxcnn.recipe import catalog
from flaxcnn.records.folder import runs_folder, stamp
from flaxcnn.signals import Handlers

# 75: preempted or lost a peer; 134: aborted by jax for a lost peer; 137, 139: killed, crashed.
RESUMABLE = (75, 134, 137, 139)
# SIGABRT: also ends a process whose compiler fails a check. That would happen again, so it is
# resumable only after an epoch.
ABORTED = 134
GRACE_SECONDS = 20  # for the others to end after one has, above jax's heartbeat
POLL_SECONDS = 0.05
LAUNCHER = "FLAXCNN_LAUNCHER"  # process number of the launcher, in the environment of the others
FOLLOW_SECONDS = 1.0  # between their looks at whether it is there
CHATTER = "[Gloo]"  # starts log lines of no use to a person
FIRST_WAIT_SECONDS = 1.0  # before a restart; doubled after each one without progress


class Group(NamedTuple):
    """The options of `train` about other processes."""

    distributed: bool
    coordinator: str | None
    processes: int | None
    process: int | None


@contextlib.contextmanager
def joined(group: Group) -> Iterator[None]:
    """Join the group; inside, a failing process does not wait for the others."""
    if not group.distributed and group[1:] == (None, None, None):
        yield
        return
    if group.distributed and group[1:] != (None, None, None):
        raise ConfigError(
            "--distributed uses the cluster that JAX detects; leave out --coordinator, --processes "
            "and --process"
        )
    from flaxcnn.engine import hosts

    if LAUNCHER in os.environ:
        threading.Thread(target=_follow_launcher, daemon=True).start()
    leave_at_once()
    _own_stdout()
    hosts.connect(group.coordinator, group.processes, group.process)
    with hosts.lost_peers():
        yield


def _follow_launcher() -> None:
    """Stop, as for SIGTERM, when the `flaxcnn launch` that started this process is gone."""
    while str(os.getppid()) == os.environ[LAUNCHER]:
        time.sleep(FOLLOW_SECONDS)
    note("flaxcnn launch is gone; stopping")
    os.kill(os.getpid(), signal.SIGTERM)


def _own_stdout() -> None:
    """Send what C++ libraries print to stderr, so that stdout holds only our output."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)


@command
def launch(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="-- train EXPERIMENT ...", help="The command that every process runs."
        ),
    ],
    processes: Annotated[int, typer.Option("--processes", help="Number of processes.")],
    max_restarts: Annotated[
        int,
        typer.Option("--max-restarts", help="Give up after so many restarts without a new epoch."),
    ] = 0,
    port: Annotated[
        int | None, typer.Option("--port", help="Port of process 0 (default: a free one).")
    ] = None,
) -> None:
    """Run one training in several processes on this machine, and restart them if they die.

    Exits with the code of the first process that failed. Restarts only what can be resumed: exit
    codes 75, 137 and 139, and 134 (aborted) once an epoch is recorded.

    \b
    Examples:
      flaxcnn launch --processes 2 -- train mnist-ladder/model10
      flaxcnn launch --processes 8 --max-restarts 3 -- train resnet.py:big --run-dir runs/big
    """
    if processes < 1:
        raise ConfigError(f"--processes must be at least 1 (got {processes})")
    if max_restarts < 0:
        raise ConfigError(f"--max-restarts must be at least 0 (got {max_restarts})")
    if not arguments or arguments[0] != "train":
        raise ConfigError(
            f"launch runs only `train` (got {' '.join(arguments) or 'no command'}), as in "
            "`flaxcnn launch --processes 2 -- train digits/quickstart`"
        )
    arguments, run_dir = _with_run_dir(arguments)
    without_progress, before = 0, _epochs(run_dir)
    at_start = before
    while True:
        code = _run(arguments, processes, port)
        if code == 0:
            return
        if code not in RESUMABLE:
            raise typer.Exit(code)
        if code == ABORTED and _epochs(run_dir) == at_start:
            raise FlaxcnnError(
                f"exit code {ABORTED}: a process was aborted before its first epoch, probably "
                "by a compiler that cannot compile the program; a restart would end the same way"
            )
        without_progress = 0 if _epochs(run_dir) > before else without_progress + 1
        before = _epochs(run_dir)
        if without_progress > max_restarts or max_restarts == 0:
            after = f" after {without_progress} without a new epoch" if max_restarts else ""
            note(f"exit code {code}: no further restart{after}; resume with --resume")
            raise typer.Exit(code)
        wait = FIRST_WAIT_SECONDS * 2**without_progress
        note(f"exit code {code}: restarting from epoch {before} in {wait:.0f} s")
        time.sleep(wait)
        if not {"--resume", "--resume-if-any"} & set(arguments):
            arguments = [*arguments, "--resume-if-any"]


def _with_run_dir(arguments: list[str]) -> tuple[list[str], Path]:
    """The command with a run directory, so that a restart uses the same one, and the directory."""
    for i, word in enumerate(arguments):
        if word == "--run-dir" and i + 1 < len(arguments):
            return arguments, Path(arguments[i + 1]).expanduser()
        if word.startswith("--run-dir="):
            return arguments, Path(word.partition("=")[2]).expanduser()
    named = len(arguments) > 1 and not arguments[1].startswith("-")
    name = catalog.find(arguments[1] if named else catalog.DEFAULT_EXPERIMENT).name
    path = runs_folder() / name / f"{stamp()}-launched"
    return [*arguments, "--run-dir", str(path)], path


def _epochs(run_dir: Path) -> int:
    """Number of recorded epochs."""
    try:
        return (run_dir / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def _run(arguments: list[str], processes: int, port: int | None) -> int:
    """Run all processes -> 0, or the exit code of the first that failed."""
    where = f"127.0.0.1:{free_port() if port is None else port}"
    environments = [_environment(i, processes) for i in range(processes)]
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "flaxcnn", *arguments, "--coordinator", where,
             "--processes", str(processes), "--process", str(i)],
            env=environments[i], stdout=None if i == 0 else subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )
        for i in range(processes)
    ]  # fmt: skip
    readers = [
        threading.Thread(target=_forward_output, args=(number, stream), daemon=True)
        for number, child in enumerate(children)
        for stream in (child.stdout, child.stderr)
        if stream is not None
    ]
    for reader in readers:
        reader.start()
    try:
        with _forwarded(children) as received:
            code = _first_failure(children)
    finally:
        _end(children)
        for reader in readers:
            reader.join()
    if received:
        raise InterruptedRun(
            received[0].name, "all processes have ended; resume with --resume",
            code or 75,
        )  # fmt: skip
    return code


def _environment(process: int, processes: int) -> dict[str, str]:
    """The environment of a process, with its share of the GPUs, or of the cores."""
    variables = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    installed = [path.name.removeprefix("nvidia") for path in gpus()] if visible is None else []
    names = visible.split(",") if visible else installed
    if names:
        if len(names) < processes:
            raise ConfigError(
                f"--processes must be at most {len(names)}, one per GPU (got {processes})"
            )
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(share(names, process, processes))
    variables[LAUNCHER] = str(os.getpid())
    variables.setdefault("JAX_NUM_CPU_DEVICES", str(max((os.cpu_count() or 1) // processes, 1)))
    return variables


def share(things: Sequence[str], part: int, parts: int) -> Sequence[str]:
    """The `part`-th of `parts` nearly equal slices of a sequence."""
    return things[part * len(things) // parts : (part + 1) * len(things) // parts]


def _forward_output(number: int, stream: IO[bytes]) -> None:
    """Print the lines of a process to stderr, with its number unless it is process 0."""
    with stream:
        for line in stream:
            text = line.decode(errors="replace").rstrip()
            if not text.startswith(CHATTER):
                print(f"[{number}] {text}" if number else text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _forwarded(children: list[subprocess.Popen[bytes]]) -> Iterator[list[signal.Signals]]:
    """Forward signals to the processes, which save and end; yields the received ones."""
    received: list[signal.Signals] = []

    def forward(number: int, _: object) -> None:
        received.append(signal.Signals(number))
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    handlers = Handlers(forward)
    handlers.install()
    try:
        yield received
    finally:
        handlers.remove()


def _first_failure(children: list[subprocess.Popen[bytes]]) -> int:
    """Wait for all, or for the first that fails and GRACE_SECONDS more -> its exit code, or 0.

    A code that names a cause counts before one for a lost peer.
    """
    codes: dict[int, int] = {}
    deadline = float("inf")
    while len(codes) < len(children) and time.monotonic() < deadline:
        for number, child in enumerate(children):
            if number not in codes and child.poll() is not None:
                code = child.returncode
                codes[number] = code if code >= 0 else 128 - code  # as a shell counts signals
                if codes[number]:
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
                    if codes[number] not in (75, 130):
                        note(f"process {number} ended with exit code {codes[number]}")
        time.sleep(POLL_SECONDS)
    failed = [code for code in codes.values() if code]
    return next((code for code in failed if code not in RESUMABLE), failed[0] if failed else 0)


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        if child.poll() is None:
            child.kill()
        child.wait()
