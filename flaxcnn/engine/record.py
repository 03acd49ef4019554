"""What a run leaves behind: files written whole or not at all, under a lock that dies with it."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import math
import os
import platform
import socket
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import flaxcnn
from flaxcnn.errors import CheckpointError, ConfigError, WriteError
from flaxcnn.recipe.config import Config

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


def plain(value: Any) -> Any:
    """The value with NaN and infinities as None: JSON has no other word for them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside the target, flush to disk, rename.

    Raises:
        WriteError: the folder or the disk does not take it.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise WriteError(f"{path}: cannot be written ({error.strerror})") from error


class RunDirectory:
    """`runs/<experiment>/<id>/`: its files, and the lock that keeps a second run out.

    Raises:
        ConfigError: it holds another run or another recipe.
        WriteError: it is in use, or cannot be written.
    """

    def __init__(self, path: Path):
        self.path = path.expanduser().absolute()
        self._lock: IO[str] | None = None

    # -- opening ---------------------------------------------------------------------------------

    def open(self, config: Config, resume: bool) -> RunDirectory:
        """Create it for a new run, or take it up again; returns self."""
        try:
            self._check_place()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / "run.lock", "a+")  # noqa: SIM115
        except OSError as error:
            raise WriteError(f"run directory {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            self._lock.close()
            raise WriteError(f"run directory {self.path}: in use by {holder}") from None
        try:
            self._check(config, resume)
        except BaseException:
            self.close()
            raise
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._lock.flush()
        self.write_json("config.json", config.to_dict())
        return self

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_place(self) -> None:
        """Before anything is written: not a folder of something else."""
        if not self.path.is_dir() or (self.path / "config.json").exists():
            return
        ours = ("run.lock", ".config.json.")  # the latter: of a start that was killed
        if others := sorted(p.name for p in self.path.iterdir() if not p.name.startswith(ours)):
            raise ConfigError(
                f"run directory {self.path}: holds {others[0]} but no run; "
                "allowed is a new or empty folder"
            )

    def _check(self, config: Config, resume: bool) -> None:
        if not (self.path / "config.json").exists():
            return
        if not resume:
            raise ConfigError(
                f"run directory {self.path}: holds a run already; "
                "add --resume to go on with it, or choose another directory"
            )
        old, new = self.config().to_dict(), config.to_dict()
        # A run may be made longer. Only a schedule that spans the epochs makes that another recipe.
        free = {"save_every"} | ({"epochs"} if new["schedule"]["type"] != "cosine" else set())
        if differ := [key for key in new if old[key] != new[key] and key not in free]:
            key = differ[0]
            raise ConfigError(
                f"run directory {self.path}: holds a different recipe: {', '.join(differ)} "
                f"(there {key}={old[key]!r}, now {new[key]!r})"
            )
        if config.epochs < (done := len(self.history())):
            raise ConfigError(
                f"epochs: got {config.epochs}, but run directory {self.path} has {done} already; "
                f"allowed is {done} or more"
            )

    # -- files -----------------------------------------------------------------------------------

    def config(self) -> Config:
        """The recipe it was started with."""
        return Config.from_dict(self.read_json("config.json"))

    def read_json(self, name: str) -> Any:
        """A JSON file of the run; CheckpointError if it is missing or damaged."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except OSError as error:
            raise CheckpointError(f"{self.path / name}: {error.strerror}") from error
        except ValueError as error:
            raise CheckpointError(f"{self.path / name}: is damaged ({error})") from error

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file, whole or not at all."""
        text = json.dumps(plain(value), indent=1, allow_nan=False) + "\n"
        write_atomic(self.path / name, text.encode())

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, whole or not at all."""
        write_atomic(self.path / name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        write_atomic(self.path / name, data)

    def history(self) -> list[dict[str, Any]]:
        """The epochs of metrics.jsonl; a last line that a crash cut short does not count."""
        try:
            lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def keep_epochs(self, last: int) -> None:
        """Drop the lines of epochs after `last`: they are about to be computed again."""
        rows = [row for row in self.history() if row["epoch"] <= last]
        self.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def add_epoch(self, metrics: dict[str, Any]) -> None:
        """One line for metrics.jsonl, in a single write, and history.csv anew."""
        line = json.dumps(plain(metrics), allow_nan=False) + "\n"
        try:
            with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise WriteError(f"{self.path / 'metrics.jsonl'}: {error.strerror}") from error
        rows = self.history()
        table = io.StringIO()
        writer = csv.DictWriter(table, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
        self.write_text("history.csv", table.getvalue())

    def set_status(self, status: str, **more: Any) -> None:
        """running, complete, interrupted, diverged or failed."""
        self.write_json("status.json", {"status": status, **more})


def versions() -> dict[str, str]:
    """Python, flaxcnn and the packages that decide what is computed."""
    found = {name: metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "flaxcnn": flaxcnn.__version__, **found}


def source_revision() -> str | None:
    """Commit of the checkout this package runs from, `+` if changed since; None for a wheel."""
    here = Path(flaxcnn.__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    try:
        git = [
            subprocess.run(
                ["git", "-C", str(here), *args], capture_output=True, text=True, check=True
            )
            for args in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "flaxcnn"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return git[0].stdout.strip() + ("+" if git[1].stdout.strip() else "")


def environment() -> dict[str, Any]:
    """env.json: what else decides the bits, and where the run was made."""
    import jax

    from flaxcnn.backend import cores, processor

    devices = jax.devices()
    return {
        "versions": versions(),
        "source_revision": source_revision(),
        "platform": platform.platform(),
        "processor": processor(),
        "cpus": cores(),
        "backend": jax.default_backend(),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "PJRT_NPROC": os.environ.get("PJRT_NPROC", ""),
        "matmul_precision": str(getattr(jax.config, "jax_default_matmul_precision", None)),
    }
