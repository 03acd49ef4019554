"""Several processes as one run: one joins the others, and `flaxcnn launch` starts them here."""

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
from typing import IO, NamedTuple

import typer

from flaxcnn.cli.output import command, leave_at_once, note
from flaxcnn.errors import ConfigError, FlaxcnnError, InterruptedRun
from flaxcnn.hardware import free_port, gpus
from flaxcnn.recipe import catalog
from flaxcnn.records.folder import runs_folder, stamp

# 75: preempted, or a peer was lost; 134: ended by jax for a lost peer; 137, 139: killed, crashed.
RESUMABLE = (75, 134, 137, 139)
# SIGABRT: also what a failed check in a compiler ends with, before anything is computed. That would
# come again, so it is resumable only after an epoch.
ABORTED = 134
GRACE_SECONDS = 20  # that the others have to end after one has, above jax's heartbeat
POLL_SECONDS = 0.05
CHATTER = "[Gloo]"  # lines of a library that tell a person nothing
FIRST_WAIT_SECONDS = 1.0  # before a restart; twice that after each one without progress


class Group(NamedTuple):
    """What the options of `train` say of the other processes."""

    distributed: bool
    coordinator: str | None
    processes: int | None
    process: int | None


@contextlib.contextmanager
def joined(group: Group) -> Iterator[None]:
    """Inside, this process is one of the group; it waits for no one when it fails."""
    if not group.distributed and group[1:] == (None, None, None):
        yield
        return
    if group.distributed and group[1:] != (None, None, None):
        raise ConfigError(
            "--distributed: got with --coordinator, --processes or --process; allowed is either "
            "the cluster that jax finds or the three"
        )
    from flaxcnn.engine import hosts

    leave_at_once()
    _own_stdout()
    hosts.connect(group.coordinator, group.processes, group.process)
    with hosts.lost_peers():
        yield


def _own_stdout() -> None:
    """What the libraries of other languages print goes to stderr: stdout has one document."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)


@command
def launch(
    arguments: list[str] = typer.Argument(
        metavar="-- train EXPERIMENT ...", help="The command that every process runs."
    ),
    processes: int = typer.Option(..., "--processes", help="How many."),
    max_restarts: int = typer.Option(
        0, "--max-restarts", help="Give up after so many restarts without another epoch."
    ),
    port: int = typer.Option(None, "--port", help="Of process 0; a free one by default."),
) -> None:
    """Run one training with several processes of this machine, and start them again if they die.

    Ends with the exit code of the first process that failed. Only what can be resumed is started
    again: exit codes 75, 137 and 139, and 134 (aborted) once an epoch was recorded.

    \b
    Examples:
      flaxcnn launch --processes 2 -- train mnist-ladder/model10
      flaxcnn launch --processes 8 --max-restarts 3 -- train resnet.py:big --run-dir runs/big
    """
    if processes < 1:
        raise ConfigError(f"--processes: got {processes}; allowed is 1 or more")
    if max_restarts < 0:
        raise ConfigError(f"--max-restarts: got {max_restarts}; allowed is 0 or more")
    if not arguments or arguments[0] != "train":
        raise ConfigError(
            f"launch: got {' '.join(arguments) or 'no command'}; allowed is train, as in "
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
                f"exit code {ABORTED}: a process was aborted before an epoch was recorded, as a "
                "compiler does that cannot compile the program: not started again, since it would "
                "end the same way"
            )
        without_progress = 0 if _epochs(run_dir) > before else without_progress + 1
        before = _epochs(run_dir)
        if without_progress > max_restarts or max_restarts == 0:
            after = f" after {without_progress} without another epoch" if max_restarts else ""
            note(f"exit code {code}: no further restart{after}; --resume goes on")
            raise typer.Exit(code)
        wait = FIRST_WAIT_SECONDS * 2**without_progress
        note(f"exit code {code}: starting again from epoch {before} in {wait:.0f} s")
        time.sleep(wait)
        if not {"--resume", "--resume-if-any"} & set(arguments):
            arguments = [*arguments, "--resume-if-any"]


def _with_run_dir(arguments: list[str]) -> tuple[list[str], Path]:
    """The command with a run directory, which a restart must find again, and that directory."""
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
    """Epochs of the run that are recorded."""
    try:
        return (run_dir / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def _run(arguments: list[str], processes: int, port: int | None) -> int:
    """All processes until they have ended -> 0, or the exit code of the first that failed."""
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
        threading.Thread(target=_tell, args=(number, stream), daemon=True)
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
            received[0].name, "all processes have ended; the same command with --resume goes on",
            code or 75,
        )  # fmt: skip
    return code


def _environment(process: int, processes: int) -> dict[str, str]:
    """What a process finds around it: its share of the GPUs, or of the cores."""
    found = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = [path.name.removeprefix("nvidia") for path in gpus()] if told is None else []
    names = told.split(",") if told else there
    if names:
        if len(names) < processes:
            raise ConfigError(
                f"--processes: got {processes}; allowed is 1 to {len(names)}, one a GPU"
            )
        found["CUDA_VISIBLE_DEVICES"] = ",".join(share(names, process, processes))
    found.setdefault("JAX_NUM_CPU_DEVICES", str(max((os.cpu_count() or 1) // processes, 1)))
    return found


def share(things: Sequence[str], part: int, parts: int) -> Sequence[str]:
    """The `part`-th of `parts` nearly equal runs of things."""
    return things[part * len(things) // parts : (part + 1) * len(things) // parts]


def _tell(number: int, stream: IO[bytes]) -> None:
    """A process's lines on stderr, with its number, but those of the one that speaks for all."""
    with stream:
        for line in stream:
            text = line.decode(errors="replace").rstrip()
            if not text.startswith(CHATTER):
                print(f"[{number}] {text}" if number else text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _forwarded(children: list[subprocess.Popen[bytes]]) -> Iterator[list[signal.Signals]]:
    """SIGTERM and SIGINT go to the processes, which save and end; yields those that came."""
    received: list[signal.Signals] = []

    def forward(number: int, _: object) -> None:
        received.append(signal.Signals(number))
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    before = {n: signal.signal(n, forward) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first_failure(children: list[subprocess.Popen[bytes]]) -> int:
    """Wait for all, or for the first that fails and GRACE_SECONDS more -> its exit code, or 0.

    A code that says why counts before one that says that another process was lost.
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
