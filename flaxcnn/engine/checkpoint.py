"""Checkpoints through Orbax: the best and the last, verified bit for bit when they are read.

What Orbax leaves to its caller is done here: which epoch is best is our own record (earliest on
ties, never a NaN), `save` that returns False is an error, paths are absolute, dtypes and shardings
are given at restore, and a SHA-256 over every leaf and the progress beside them finds the flipped
bit that no format detects.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy as preservation

from flaxcnn.backend import enough_memory
from flaxcnn.engine.digest import seal, tree_digest, verify
from flaxcnn.engine.hosts import primary
from flaxcnn.engine.sharding import gather
from flaxcnn.errors import (
    CheckpointError,
    InterruptedRun,
    OutOfMemoryError,
    WriteError,
    first_line,
)
from flaxcnn.fault_points import passing
from flaxcnn.records.files import flush, patient
from flaxcnn.xla_messages import without_warnings

log = logging.getLogger(__name__)
WITHIN = "within"  # folder of the checkpoint of an epoch that is not done
Tree = Any
TEMPORARY = ".orbax-checkpoint-tmp"  # ends the name of a checkpoint that is being written
COPIES = 3  # the best, the last, and the one that is being written
RECORDS = 2e6  # bytes of records, pages and what Orbax adds


def room(folder: str | Path, state: Tree) -> str | None:
    """A sentence, where the disk of a folder may not hold the checkpoints of a run."""
    if "://" in str(folder):
        return None
    needed = COPIES * sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + RECORDS
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return None
    return (
        f"{folder}: {free / 1e6:,.1f} MB are free, but checkpoints and records may take "
        f"{needed / 1e6:,.1f} MB"
    )


def _written(state: Tree) -> Tree:
    """The fields of a state by name, without those that may be left out and hold nothing.

    So a checkpoint from before such a field existed is read as one that holds nothing there.
    """
    if not dataclasses.is_dataclass(state):
        return state
    values = {field: _written(getattr(state, field.name)) for field in dataclasses.fields(state)}
    optional = lambda field: field.default_factory is not dataclasses.MISSING  # noqa: E731
    return {
        field.name: value
        for field, value in values.items()
        if jax.tree.leaves(value) or not optional(field)
    }


def _read_back(fields: Tree, like: Tree) -> Tree:
    """The state of which `_written` made `fields`; `like` has its class."""
    if not dataclasses.is_dataclass(like):
        return fields
    whole = {name: _read_back(part, getattr(like, name)) for name, part in fields.items()}
    return dataclasses.replace(like, **whole)  # type: ignore[type-var]


class _BestAndLatest(preservation.PreservationPolicy):
    """Keep the newest checkpoint and the epoch that the run calls its best."""

    def __init__(self) -> None:
        self.best: int | None = None

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: preservation.PreservationContext
    ) -> list[bool]:
        newest = max((c.step for c in checkpoints), default=None)
        return [c.step in (newest, self.best) for c in checkpoints]


class _Pending(NamedTuple):
    """A checkpoint to write."""

    epoch: int
    state: Tree  # on the host
    record: dict[str, Any]


class Checkpoints:
    """The `checkpoints/` folder of one run; a context manager that waits for pending writes.

    `folder` may lie in an object store (gs://). Every process of a run opens it, so that it
    must be the same place for all of them. Without `writes`, nothing is made or removed there.

    Args:
        folder: where they are.
        counts: what their numbers are: of epochs, or of steps.

    Raises:
        WriteError: the folder cannot be reached, or a checkpoint could not be written.
    """

    def __init__(self, folder: str | Path, writes: bool = True, counts: str = "epoch"):
        self.folder, self.counts = folder, counts
        self._within: Checkpoints | None = None  # of an epoch that is not done
        self._keep = _BestAndLatest()
        self._pending: _Pending | None = None  # handed to Orbax, and not known to be on disk
        remote = "://" in str(folder)
        if str(folder).startswith("s3:"):  # its asynchronous save fails, google/orbax#359
            raise WriteError(
                f"checkpoints: {folder} cannot be used: Orbax does not write to "
                "s3://; use gs:// or a folder that all processes can reach"
            )
        try:
            place = epath.Path(str(folder)) if remote else Path(folder).resolve()
            # Orbax warns that what is opened to be read is read only
            with contextlib.nullcontext() if writes else without_warnings("absl"):
                options = ocp.CheckpointManagerOptions(
                    preservation_policy=self._keep, cleanup_tmp_directories=writes, create=writes,
                    read_only=not writes,
                    # Its threads would wait 5 minutes for a folder that could not be made
                    async_options=ocp.options.AsyncOptions(
                        create_directories_asynchronously=False,
                        post_finalization_callback=None if remote else self._flush,
                    ),
                )  # fmt: skip
                self._manager = ocp.CheckpointManager(place, options=options)
        except Exception as error:  # ImportError, OSError and what each store raises of its own
            if "can't start new thread" in str(error):  # what a limit on memory looks like
                raise OutOfMemoryError("out of memory (no new thread can be started)") from error
            needs = "; object stores need flaxcnn[cloud] and credentials" if remote else ""
            raise WriteError(
                f"checkpoints: {folder} cannot be used ({first_line(error)}){needs}"
            ) from error

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        # What has failed already is not waited for again, and is what a person should read. A run
        # that a signal stopped says that it can go on from here: then this must be on disk.
        failed = failure is not None and not issubclass(failure, InterruptedRun)
        try:
            with contextlib.suppress(*((Exception,) if failed else ())):
                self._wait()
        finally:
            with contextlib.suppress(Exception):  # as above: all that counts has been waited for
                self._manager.close()
            if self._within is not None:
                self._within.__exit__(failure)

    def _wait(self) -> None:
        """Until what was saved is on disk; a disk that is full is given time to have room again."""
        if self._pending is None:
            return
        pending = self._pending

        def finish() -> None:
            passing("checkpoint.wait")
            self._manager.wait_until_finished()

        def again() -> None:
            with contextlib.suppress(Exception):  # known, and maybe not of this checkpoint
                self._manager.wait_until_finished()
            self._remove_leftovers()
            self._manager.reload()
            if pending.epoch not in self.epochs():
                self._hand_over(pending)
            finish()

        try:
            self._write(pending, finish, again)
        finally:
            self._pending = None

    def _write(
        self, pending: _Pending, first: Callable[[], None], again: Callable[[], None]
    ) -> None:
        """A part of the writing, and how it is done again once a full disk has room.

        Raises:
            WriteError: it fails for another reason, or the disk stays full.
        """
        try:
            patient(self.folder, first, again)
        except WriteError:
            raise
        except Exception as error:  # Orbax raises its own, OSError and ValueError alike
            self._remove_leftovers()
            raise WriteError(
                f"checkpoints: {self.counts} {pending.epoch} was not written ({first_line(error)})"
            ) from error

    def _flush(self) -> None:
        """In the background, before a checkpoint gets its name and an older one is removed."""
        for path in Path(self.folder).glob(f"*{TEMPORARY}"):
            flush(path)

    def _remove_leftovers(self) -> None:
        """Half-written checkpoints: they would keep the disk full.

        One that is still being written is left alone: it would get its name with a part missing.
        """
        if "://" not in str(self.folder) and not self._manager.is_saving_in_progress():
            for path in Path(self.folder).glob(f"*{TEMPORARY}"):
                shutil.rmtree(path, ignore_errors=True)

    def epochs(self) -> list[int]:
        """Epochs that can be tried, ascending."""
        return sorted(self._manager.all_steps())

    def used(self) -> bool:
        """Whether anything was ever saved there."""
        return bool(self.epochs()) or self._place_within().is_dir()

    def save(self, epoch: int, state: Tree, progress: dict[str, Any], best: int | None) -> None:
        """Write the state after `epoch`; `best` is the epoch to keep beside it."""
        self._wait()
        self._keep.best = best
        host = jax.device_get(state)
        # A copy: Orbax encodes it in the background, when the caller may be an epoch further on.
        record = copy.deepcopy({**progress, self.counts: epoch})
        record["digest"] = seal(tree_digest(host), record)
        pending = _Pending(epoch, _written(host), record)

        def again() -> None:
            self._remove_leftovers()
            self._hand_over(pending)

        self._write(pending, functools.partial(self._hand_over, pending), again)
        self._pending = pending
        if self._within is not None:  # it is older now
            self._wait()
            self._within.__exit__(None)
            self._within = None
            if primary():
                self._place_within().rmtree()

    def _hand_over(self, pending: _Pending) -> None:
        """Begin to write a checkpoint, which goes on in the background."""
        passing("checkpoint.save")
        saved = self._manager.save(
            pending.epoch,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(pending.state),
                progress=ocp.args.JsonSave(pending.record),
            ),
        )
        if not saved:
            raise WriteError(
                f"checkpoints: {self.counts} {pending.epoch} was refused; "
                "a later one is there already"
            )

    def save_within(self, step: int, arrays: Tree, progress: dict[str, Any]) -> None:
        """Write what there is of an epoch after `step` steps of the run, until `save` is called."""
        if self._within is None:
            self._within = Checkpoints(str(self._place_within()), counts="step")
        self._within.save(step, arrays, progress, None)

    def restore_within(self, like: Tree) -> tuple[Tree, dict[str, Any]] | None:
        """What `save_within` wrote last, if no whole epoch was saved after it.

        A damaged one is told of and left out: the epoch begins anew.
        """
        if not self._place_within().is_dir():
            return None
        self._within = Checkpoints(str(self._place_within()), counts="step")
        with contextlib.suppress(CheckpointError):
            found = self._within.restore_newest(like)
            if found and found[1]["epoch"] >= max(self.epochs(), default=0):
                return found
        return None

    def _place_within(self) -> epath.Path:
        return epath.Path(str(self.folder)) / WITHIN

    def restore(self, epoch: int, like: Tree) -> tuple[Tree, dict[str, Any]]:
        """(state, progress) of one epoch; `like` gives structure, shapes, dtypes and placement.

        What has no placement (shapes only) comes to the first device.

        Raises:
            CheckpointError: unreadable, of another shape, or not the bits that were saved.
            OutOfMemoryError: there is no room for it.
        """
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=getattr(x, "sharding", None) or first
            ),
            _written(like),
        )
        self._wait()
        try:
            with enough_memory():
                restored = self._manager.restore(
                    epoch,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
                    ),
                )
        except OutOfMemoryError:  # it may be sound
            raise
        except Exception as error:
            cause = str(error).partition("\n")[0][:200]
            raise CheckpointError(
                f"checkpoint of {self.counts} {epoch} cannot be read: {cause}"
            ) from error
        state = _read_back(restored.state, like)
        whole = jax.device_get(gather(state))  # an optimizer may be divided over processes
        verify(self.counts, epoch, tree_digest(whole), restored.progress)
        return state, restored.progress

    def restore_newest(self, like: Tree) -> tuple[Tree, dict[str, Any]] | None:
        """The newest checkpoint that is whole; None where none was ever written.

        Damaged ones after it are removed: their epochs are about to be saved again.

        Raises:
            CheckpointError: there are checkpoints, and all of them are damaged.
        """
        failures: dict[int, str] = {}
        for epoch in reversed(self.epochs()):
            try:
                checkpoint = self.restore(epoch, like)
            except CheckpointError as error:
                log.warning("%s; trying an earlier one", error)
                failures[epoch] = str(error)
                continue
            for damaged in failures:
                self._manager.delete(damaged)
            return checkpoint
        if failures:
            raise CheckpointError("no usable checkpoint: " + "; ".join(failures.values()))
        return None
