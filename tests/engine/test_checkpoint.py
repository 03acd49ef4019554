"""Checkpoints: what is read back is what was saved, or a sentence says that it is not."""

import json
import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_runs import ABANDONED

from flaxcnn.engine.checkpoint import Checkpoints
from flaxcnn.engine.digest import tree_digest
from flaxcnn.errors import CheckpointError, WriteError

pytestmark = ABANDONED

TREE = {
    "step": np.int32(7),
    "seed": np.uint32(2**32 - 1),
    "params": {
        "kernel": np.random.default_rng(0).normal(size=(64, 33)).astype(np.float32),
        "half": np.asarray(jnp.linspace(0, 1, 5, dtype=jnp.bfloat16)),
        "odd": np.array([np.nan, -0.0, np.inf, 1e-45], np.float32),
    },
    "empty": {},
}


def like():
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), TREE)


def tree(epoch):
    return {**TREE, "step": np.int32(epoch)}


def fill(folder, epochs, best=None):
    with Checkpoints(folder) as checkpoints:
        for epoch in epochs:
            checkpoints.save(epoch, tree(epoch), {"best": 0.5, "wait": 0}, best)
    return folder


def array_files(folder, epoch):
    """Files with array bytes, the largest first."""
    files = [p for p in (folder / str(epoch) / "state").rglob("*") if "/d/" in str(p)]
    return sorted(files, key=lambda p: -p.stat().st_size)


def flip(path, at=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


def restored_steps(folder, caplog=None):
    with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore_newest(like())
    return None if found is None else int(found[0]["step"])


def test_what_the_caller_adds_after_the_call_is_not_saved(tmp_path):
    """Orbax writes in the background: a later epoch's line in there would be there twice."""
    history = [{"epoch": 1}]
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, tree(1), {"history": history}, None)
        history.append({"epoch": 2})
        history[0]["epoch"] = 7
    with Checkpoints(tmp_path / "c") as checkpoints:
        _, progress = checkpoints.restore(1, like())
    assert progress["history"] == [{"epoch": 1}]


def test_every_bit_comes_back(tmp_path):
    fill(tmp_path / "c", [3])
    with Checkpoints(tmp_path / "c") as checkpoints:
        state, progress = checkpoints.restore(3, like())
    expected = jax.tree.leaves(tree(3))
    for found, saved in zip(jax.tree.leaves(state), expected, strict=True):
        assert found.dtype == saved.dtype
        assert np.asarray(found).tobytes() == np.asarray(saved).tobytes()
    assert progress["epoch"] == 3
    assert progress["best"] == 0.5


def test_the_digest_sees_path_type_shape_and_every_byte():
    base = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float32)}
    others = [
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"].astype(np.int32), "b": base["b"]},
        {"a": base["a"].reshape(3, 2), "b": base["b"]},
        {"a": base["a"], "b": np.array([0.0, -0.0], np.float32)},
        {"a": base["a"]},
    ]
    digests = [tree_digest(t) for t in (base, *others)]
    assert len(set(digests)) == len(digests)
    turned = {"b": base["b"], "a": np.asfortranarray(base["a"])}
    assert tree_digest(turned) == digests[0], "neither order nor memory layout is content"
    assert tree_digest(jax.tree.map(jnp.asarray, base)) == digests[0]


@pytest.mark.parametrize(
    ("best", "kept"), [([1, 1, 3, 3], [3, 4]), ([1, 2, 3, 4], [4]), ([1, 1, 1, 1], [1, 4])]
)
def test_the_best_and_the_newest_are_kept(tmp_path, best, kept):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for epoch, one in enumerate(best, 1):
            checkpoints.save(epoch, tree(epoch), {}, one)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.epochs() == kept


def test_nothing_was_ever_written(tmp_path):
    assert restored_steps(tmp_path / "c") is None


@pytest.mark.parametrize("epoch", [2, 1])
def test_a_step_that_is_there_is_not_overwritten(tmp_path, epoch):
    fill(tmp_path / "c", [1, 2], best=1)
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(WriteError, match="refused"):
        checkpoints.save(epoch, tree(epoch), {}, None)


def test_relative_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill((tmp_path / "c").relative_to(tmp_path), [1])
    monkeypatch.chdir("/")
    assert restored_steps(tmp_path / "c") == 1


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True))
def test_one_flipped_bit_of_the_arrays_is_found(tmp_path_factory, where):
    """Wherever it is: in the pixels of zstd, which has its own sum, or in bytes that have none."""
    folder = fill(tmp_path_factory.mktemp("flip") / "c", [1, 2], best=1)
    file = array_files(folder, 2)[0]
    flip(file, int(where * file.stat().st_size))
    with Checkpoints(folder) as checkpoints:
        try:
            state, _ = checkpoints.restore(2, like())
        except CheckpointError:
            return
    assert tree_digest(jax.device_get(state)) == tree_digest(tree(2)), "read, then the right bits"


def test_a_state_that_is_not_the_saved_one_is_found(tmp_path):
    """Bits that the format itself takes for good: the recorded digest is another one."""
    folder = fill(tmp_path / "c", [1])
    file = folder / "1" / "progress" / "metadata"
    record = json.loads(file.read_text())
    record["digest"] = "0" * 64
    file.write_text(json.dumps(record))
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(CheckpointError, match="checkpoint of epoch 1 is damaged"),
    ):
        checkpoints.restore(1, like())


@pytest.mark.parametrize("how", ["flip", "truncate", "remove", "progress"])
def test_damage_falls_back_to_the_earlier_one(tmp_path, caplog, how):
    folder = fill(tmp_path / "c", [1, 2, 3], best=1)
    file = array_files(folder, 3)[0]
    if how == "flip":
        flip(file)
    elif how == "truncate":
        os.truncate(file, file.stat().st_size // 2)
    elif how == "remove":
        file.unlink()
    else:
        (folder / "3" / "progress" / "metadata").write_text("{")
    with caplog.at_level(logging.WARNING, "flaxcnn"):
        assert restored_steps(folder) == 1
    assert "checkpoint of epoch 3" in caplog.text
    assert "trying an earlier one" in caplog.text
    fill(folder, [2, 3], best=1)  # the damaged one must not be in the way
    assert restored_steps(folder) == 3


def test_all_damaged(tmp_path):
    folder = fill(tmp_path / "c", [1, 2], best=1)
    for epoch in (1, 2):
        flip(array_files(folder, epoch)[0])
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(CheckpointError, match=r"no usable checkpoint: .*epoch 2.*; .*epoch 1") as e,
    ):
        checkpoints.restore_newest(like())
    assert e.value.exit_code == 5
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.epochs() == [1, 2], "nothing is removed that nothing replaces"


def test_another_model_is_refused(tmp_path):
    folder = fill(tmp_path / "c", [1])
    other = like()
    other["params"]["kernel"] = jax.ShapeDtypeStruct((64, 34), np.float32)
    with Checkpoints(folder) as checkpoints, pytest.raises(CheckpointError, match="epoch 1"):
        checkpoints.restore(1, other)


def test_a_leftover_of_a_killed_write_is_no_checkpoint(tmp_path):
    folder = fill(tmp_path / "c", [1])
    (folder / "2.orbax-checkpoint-tmp-5").mkdir()
    (folder / "2.orbax-checkpoint-tmp-5" / "state").mkdir()
    assert restored_steps(folder) == 1
    fill(folder, [2])
    assert restored_steps(folder) == 2


def test_a_write_that_fails_behind_the_back_is_an_error(tmp_path, monkeypatch):
    """Orbax writes in a thread: what goes wrong there comes out, once, where we wait for it.

    Injected where Orbax hands it over. A real fault leaves its threads waiting for minutes.
    """
    failures = []

    def wait(self):
        if failures:
            raise failures.pop()

    monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", wait)
    broken = OSError("Input/output error")
    with pytest.raises(WriteError, match=r"epoch 1 was not written \(Input/output error\)"):  # noqa: SIM117, PT012
        with Checkpoints(tmp_path / "c") as checkpoints:
            checkpoints.save(1, tree(1), {}, None)
            failures.append(broken)
    with Checkpoints(tmp_path / "d") as checkpoints:
        checkpoints.save(1, tree(1), {}, None)
        failures.append(broken)
        with pytest.raises(WriteError, match="epoch 1 was not written"):  # not the one to come
            checkpoints.save(2, tree(2), {}, None)
