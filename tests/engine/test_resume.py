"""Killed anywhere, any number of times, a run ends in the bits of the run nobody touched."""

import dataclasses
import json
import random
import shutil
import signal
import time

import jax
import pytest
from small_runs import ABANDONED, SAFETY_NET, TINY, damage

from flaxcnn.engine.train import fit
from flaxcnn.errors import CheckpointError, ConfigError, DataError
from flaxcnn.records.run import RunDirectory

pytestmark = ABANDONED

EPOCHS = 12  # of the child's recipe
STEADY = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "best")


def summary(path):
    return json.loads((path / "summary.json").read_text())


def status(path):
    return json.loads((path / "status.json").read_text())["status"]


def epochs_of(path):
    return [tuple(row[key] for key in STEADY) for row in RunDirectory(path).history()]


def wait_until(process, condition):
    """Poll; a child that ends before the condition holds fails the test with what it said."""
    deadline = time.monotonic() + SAFETY_NET
    while not condition():
        assert time.monotonic() < deadline
        if process.poll() is not None and not condition():
            raise AssertionError(process.communicate())
        time.sleep(0.002)


def has_epochs(path, count):
    file = path / "metrics.jsonl"
    return count == 0 or (file.exists() and len(file.read_text().splitlines()) >= count)


def assert_as_quiet(path, quiet):
    assert summary(path)["params_digest"] == summary(quiet)["params_digest"]
    assert summary(path)["test_loss"] == summary(quiet)["test_loss"]
    assert epochs_of(path) == epochs_of(quiet), "no line lost, none twice"
    assert status(path) == "complete"


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written_and_again_later(child, quiet):
    run = child.folder / "run"
    arguments = ("train", child.recipe, "--run-dir", run)
    process = child.start(*arguments)
    wait_until(process, lambda: any(run.glob("checkpoints/*orbax-checkpoint-tmp*")))
    process.kill()
    assert child.finish(process).returncode == -signal.SIGKILL
    assert status(run) == "running"
    process = child.start(*arguments, "--resume")
    wait_until(process, lambda: has_epochs(run, 5))
    process.kill()
    assert child.finish(process).returncode == -signal.SIGKILL
    done = child.run("train", child.recipe, "--resume", "--run-dir", run)
    assert done.returncode == 0, done.stderr
    assert len([x for x in done.stdout.splitlines() if x.startswith("epoch")]) < EPOCHS
    assert_as_quiet(run, quiet)
    assert not list(run.glob("checkpoints/*tmp*"))


@pytest.mark.soak
def test_killed_ten_times_at_random_moments(child, quiet):
    seed = random.randrange(2**32)
    print(f"seed of the moments: {seed}")  # shown if the test fails
    moments, run = random.Random(seed), child.folder / "run"
    kills = 0
    while not (run / "summary.json").exists():
        resumed = ("--resume",) if (run / "config.json").exists() else ()
        process = child.start("train", child.recipe, "--run-dir", run, *resumed)
        before = len(RunDirectory(run).history())
        if kills < 10:
            aim = min(before + moments.choice([0, 1, 1, 2]), EPOCHS - 1)
            wait_until(process, lambda aim=aim: run.exists() and has_epochs(run, aim))
            # The first kills come at once: a fast machine could be done within the pause
            time.sleep(moments.uniform(0, 0.15) if kills >= 3 else 0)
            process.kill()
        ended = child.finish(process).returncode
        kills += ended == -signal.SIGKILL
        assert ended in (0, -signal.SIGKILL)
    assert kills >= 3
    assert_as_quiet(run, quiet)


@pytest.mark.slow
def test_sigterm_saves_and_a_second_run_is_kept_out(child, quiet):
    run = child.folder / "run"
    # Many epochs, so that both signals find it at work; a constant schedule may be cut short later
    arguments = ("train", child.recipe, "--run-dir", run, "-s", "epochs=100000")
    process = child.start(*arguments)
    wait_until(process, lambda: has_epochs(run, 2))
    second = child.run(*arguments, "--resume")
    assert second.returncode == 6
    assert f"in use by process {process.pid} on " in second.stderr
    assert second.stderr.count("\n") == 1
    process.send_signal(signal.SIGTERM)
    done = child.finish(process)
    assert done.returncode == 75
    assert done.stderr.startswith("interrupted: SIGTERM: stopped ")
    assert "--resume" in done.stderr
    assert status(run) == "interrupted"
    ran = len(RunDirectory(run).history())
    total = max(ran + 2, EPOCHS)
    done = child.run("train", child.recipe, "--run-dir", run, "--resume", "-s", f"epochs={total}")
    assert done.returncode == 0, done.stderr
    assert epochs_of(run)[:EPOCHS] == epochs_of(quiet)


def test_sigint_saves_and_a_second_signal_ends_at_once(child):
    runs = {}
    for name in ("once", "twice"):
        runs[name] = child.start(
            "train", child.recipe, "--run-dir", name, "-s", "epochs=100000", "-s", "save_every=1000"
        )
    for name, process in runs.items():
        wait_until(process, lambda name=name: has_epochs(child.folder / name, 1))
    runs["once"].send_signal(signal.SIGINT)
    done = child.finish(runs["once"])
    assert done.returncode == 130
    assert done.stderr.startswith("interrupted: SIGINT")
    assert status(child.folder / "once") == "interrupted"
    # Stopped, the child can only note the signals: both wait for it when it goes on
    runs["twice"].send_signal(signal.SIGSTOP)
    runs["twice"].send_signal(signal.SIGTERM)
    runs["twice"].send_signal(signal.SIGINT)
    runs["twice"].send_signal(signal.SIGCONT)
    assert runs["twice"].wait(SAFETY_NET) in (-signal.SIGINT, -signal.SIGTERM)
    child.finish(runs["twice"])


def test_resume_by_recipe_finds_the_newest_and_a_finished_run_is_a_no_op(child, quiet):
    runs = child.folder / "runs" / "recipe" / "small"
    for stamp in ("20250101-000000-seed0", "20260101-000000-seed0"):
        shutil.copytree(quiet, runs / stamp)
    other = json.loads((quiet / "config.json").read_text())
    shutil.copytree(quiet, runs / "20270101-000000-seed7")
    other["seed"] = 7
    (runs / "20270101-000000-seed7" / "config.json").write_text(json.dumps(other))
    done = child.run("train", child.recipe, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["run_dir"] == str(runs / "20260101-000000-seed0")
    assert "\nepoch" not in done.stderr
    same = set(found) - {"run_dir", "compile_seconds", "experiment"}
    assert {k: found[k] for k in same} == {k: summary(quiet)[k] for k in same}
    assert_as_quiet(runs / "20260101-000000-seed0", quiet)


# -- in this process -----------------------------------------------------------------------------


def newest(run):
    return max((p for p in (run / "checkpoints").iterdir()), key=lambda p: int(p.name))


@pytest.mark.usefixtures("compile_once")
def test_more_epochs_are_the_epochs_of_a_longer_run(trained, digits, tmp_path):
    short = dataclasses.replace(TINY, epochs=2)
    fit(short, digits, tmp_path / "run")
    found = fit(TINY, digits, tmp_path / "run", resume=True)
    assert found.summary["params_digest"] == trained.summary["params_digest"]
    assert found.summary["epochs_run"] == TINY.epochs
    assert epochs_of(tmp_path / "run") == epochs_of(trained.path)
    assert found.summary["fingerprint"] == TINY.fingerprint()


@pytest.mark.usefixtures("compile_once")
def test_a_damaged_newest_checkpoint_costs_time_and_no_bits(trained, digits, copy_of, caplog):
    run = copy_of(trained.path)
    damage(newest(run))
    found = fit(TINY, digits, run, resume=True)
    assert "trying an earlier one" in caplog.text
    assert found.summary["params_digest"] == trained.summary["params_digest"]
    assert epochs_of(run) == epochs_of(trained.path)
    assert newest(run).name == str(TINY.epochs), "the damaged one is there again, whole"


@pytest.mark.usefixtures("compile_once")
def test_all_checkpoints_damaged(trained, digits, copy_of):
    run = copy_of(trained.path)
    for checkpoint in (run / "checkpoints").iterdir():
        damage(checkpoint)
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        fit(TINY, digits, run, resume=True)
    assert status(run) == "failed"
    assert epochs_of(run) == epochs_of(trained.path), "nothing already computed is lost"


@pytest.mark.usefixtures("compile_once")
def test_a_checkpoint_has_the_lines_of_all_its_epochs(digits, tmp_path, monkeypatch):
    """Killed between the two writes of an epoch: the line is there before the checkpoint is."""
    from flaxcnn.engine.checkpoint import Checkpoints

    save = Checkpoints.save

    def looked(self, epoch, *arguments):
        assert len(RunDirectory(tmp_path / "run").history()) == epoch
        save(self, epoch, *arguments)

    monkeypatch.setattr(Checkpoints, "save", looked)
    fit(dataclasses.replace(TINY, epochs=2), digits, tmp_path / "run")


@pytest.mark.usefixtures("compile_once")
def test_checkpoints_elsewhere_know_their_data(trained, digits, tmp_path):
    """A new machine with the old checkpoints: its folder has no data.json to compare with."""
    other = dataclasses.replace(digits, digest="0" * 64)
    with pytest.raises(DataError, match="is not the data that the checkpoint was trained on"):
        fit(TINY, other, tmp_path / "run", resume=True,
            checkpoint_dir=trained.path / "checkpoints")  # fmt: skip


@pytest.mark.slow
def test_other_settings_of_jax_are_refused(trained, digits, tmp_path):
    """One run with two kinds of arithmetic would be the result of neither."""
    elsewhere = {"resume": True, "checkpoint_dir": trained.path / "checkpoints"}
    own = jax.config.jax_default_matmul_precision
    jax.config.update("jax_default_matmul_precision", "float32")
    try:
        with pytest.raises(ConfigError, match=f"precision was {own}, now float32") as error:
            fit(TINY, digits, tmp_path / "run", **elsewhere)
    finally:
        jax.config.update("jax_default_matmul_precision", own)
    assert "\n" not in str(error.value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_never_heard_of")
        told = []
        fit(TINY, digits, tmp_path / "run", **elsewhere, on_note=told.append)
    assert any("a change of XLA_FLAGS (" in text for text in told), told


@pytest.mark.usefixtures("compile_once")
def test_checkpoints_that_are_gone_are_spoken_of(digits, tmp_path):
    short, told = dataclasses.replace(TINY, epochs=2), []
    first = fit(short, digits, tmp_path / "run")
    shutil.rmtree(first.path / "checkpoints")
    again = fit(short, digits, first.path, resume=True, on_note=told.append)
    assert any("has 2 epochs on record, but there is no checkpoint" in text for text in told)
    assert again.summary["params_digest"] == first.summary["params_digest"]
