"""Stopped by a signal at any step of an epoch, a run ends in the bits of one nobody stopped."""

import dataclasses
import errno
import json
import random
import signal
import time

import numpy as np
import pytest
from small_runs import ABANDONED, SAFETY_NET, TINY

from flaxcnn.engine import checkpoint, interrupt, resident, streaming
from flaxcnn.engine.job import Job
from flaxcnn.engine.parts import next_steps, part_steps
from flaxcnn.engine.train import fit
from flaxcnn.errors import InterruptedRun, WriteError
from flaxcnn.records.run import RunDirectory
from flaxcnn.signals import EXIT_CODES, Handlers

pytestmark = [*ABANDONED, pytest.mark.usefixtures("compile_once")]
STEADY = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "best")
STEPS = 13  # of an epoch of TINY
# A checkpoint of whole epochs would come too late for any of these signals
RARE = dataclasses.replace(TINY, save_every=50)
STREAMED = dataclasses.replace(TINY, input="stream", workers=0, epochs=3)


def epochs_of(path):
    return [tuple(row[key] for key in STEADY) for row in RunDirectory(path).history()]


@pytest.fixture
def signal_at(monkeypatch):
    """Have the run get a signal before a step of it is begun, counted from when it was started."""

    def plan(step, number=signal.SIGTERM):
        done = 0

        def one(left, most, seconds, step_seconds):
            nonlocal done
            done += 1
            if done == step:
                signal.raise_signal(number)
            return 1

        monkeypatch.setattr(resident, "next_steps", one)

    return plan


def stopped(*arguments, **more):
    with pytest.raises(InterruptedRun) as error:
        fit(*arguments, **more)
    return error.value


def status(path):
    return json.loads((path / "status.json").read_text())


def test_stopped_at_any_step_a_run_ends_in_the_same_bits(trained, digits, tmp_path, signal_at):
    seed = random.randrange(2**32)
    print(f"seed of the steps: {seed}")  # shown if the test fails
    draw, run, before = random.Random(seed), tmp_path / "run", 0
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
        ahead = draw.randrange(1, 20)
        signal_at(ahead, number)
        error = stopped(RARE, digits, run, resume=before > 0)
        assert error.exit_code == EXIT_CODES[number]
        before += ahead
        done, step = divmod(before, STEPS)
        where = f"in epoch {done + 1} after {step} of" if step else f"in epoch {done} after {STEPS}"
        assert where in str(error)
        assert status(run) == {"status": "interrupted", "reason": str(error)}
        whole = done if step else done - 1
        assert len(RunDirectory(run).history()) == whole, "no epoch is lost"
    signal_at(0)
    found = fit(RARE, digits, run, resume=True)
    assert found.summary["params_digest"] == trained.summary["params_digest"]
    assert epochs_of(run) == epochs_of(trained.path)
    assert not (run / "checkpoints" / "within").exists()


@pytest.mark.slow
def test_a_streamed_run_too(digits, tmp_path, monkeypatch):
    budget = streaming.IN_FLIGHT * 2 * TINY.batch_size * 64  # two batches of pixels to a chunk
    config = dataclasses.replace(STREAMED, data_memory=budget, save_every=50)
    quiet = fit(config, digits, tmp_path / "quiet")
    honest = streaming.Stream.running
    for ahead in (4, 3, 5):
        chunks = 0

        def running(self, result, check, ahead=ahead):
            nonlocal chunks
            honest(self, result, check)
            chunks += hasattr(result, "loss")  # of training, which gives sums alone
            if chunks == ahead:
                signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(streaming.Stream, "running", running)
        stopped(config, digits, tmp_path / "run", resume=(tmp_path / "run").exists())
    monkeypatch.setattr(streaming.Stream, "running", honest)
    found = fit(config, digits, tmp_path / "run", resume=True)
    assert found.summary["params_digest"] == quiet.summary["params_digest"]
    assert epochs_of(found.path) == epochs_of(quiet.path)


@pytest.mark.slow
def test_stopped_while_it_validates(trained, digits, tmp_path, monkeypatch):
    """The steps are not done again."""
    honest, calls = Job.evaluate, []

    def evaluate(self, state, split, check=lambda: None):
        calls.append(split)
        if len(calls) == 3:  # each epoch validates, and evaluates the training rows
            signal.raise_signal(signal.SIGTERM)
        return honest(self, state, split, check)

    monkeypatch.setattr(Job, "evaluate", evaluate)
    error = stopped(RARE, digits, tmp_path / "run")
    assert f"in epoch 2 after {STEPS} of {STEPS} steps" in str(error)
    steps = []
    monkeypatch.setattr(resident, "next_steps", lambda left, *_: steps.append(left) or left)
    fit(RARE, digits, tmp_path / "run", resume=True)
    assert len(steps) == TINY.epochs - 2
    assert epochs_of(tmp_path / "run") == epochs_of(trained.path)


def test_stopped_again_before_a_step_nothing_is_written_twice(digits, tmp_path, signal_at):
    signal_at(5)
    stopped(RARE, digits, tmp_path / "run")
    place = tmp_path / "run" / "checkpoints" / "within"
    before = sorted(place.rglob("*"))

    def at_once(config):
        signal.raise_signal(signal.SIGTERM)
        return 1.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "compile", lambda *_: at_once(None))
        error = stopped(RARE, digits, tmp_path / "run", resume=True)
    assert f"in epoch 1 after 5 of {STEPS}" in str(error)
    assert sorted(place.rglob("*")) == before


def test_a_signal_between_two_epochs_saves_the_first(digits, tmp_path):
    """Heard in the callback: the epoch is on record, and its checkpoint is made, due or not."""

    def heard(metrics):
        if metrics["epoch"] == 2:
            signal.raise_signal(signal.SIGUSR2)

    error = stopped(RARE, digits, tmp_path / "run", on_epoch=heard)
    assert "SIGUSR2: stopped after epoch 2" in str(error)
    assert "2" in {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}


def test_what_takes_longer_than_the_grace_is_given_up(digits, tmp_path, monkeypatch):
    """The device is at work on a part: nothing can be saved, and time is needed to say so."""
    now = interrupt.time.monotonic

    def part(left, *_):
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(interrupt.time, "monotonic", lambda: now() + 20)
        return left

    monkeypatch.setattr(resident, "next_steps", part)
    error = stopped(RARE, digits, tmp_path / "run")
    assert "stopped after the last checkpoint" in str(error)
    assert not (tmp_path / "run" / "checkpoints" / "within").exists()


@pytest.mark.slow
def test_a_damaged_one_costs_the_epoch_and_no_bits(trained, digits, tmp_path, signal_at, caplog):
    signal_at(STEPS + 4)
    stopped(dataclasses.replace(TINY, save_every=1), digits, tmp_path / "run")
    (within,) = (tmp_path / "run" / "checkpoints" / "within").iterdir()
    file = max((within / "state").rglob("*"), key=lambda p: p.is_file() * p.stat().st_size)
    data = bytearray(file.read_bytes())
    for place in range(0, len(data), 64):
        data[place] ^= 1
    file.write_bytes(data)
    signal_at(0)
    found = fit(TINY, digits, tmp_path / "run", resume=True)
    assert "checkpoint of step" in caplog.text
    assert found.summary["params_digest"] == trained.summary["params_digest"]


def test_a_stop_that_cannot_be_saved_says_so(digits, tmp_path, signal_at, monkeypatch):
    """Not that it goes on from a step that nobody has."""
    signal_at(5)

    def fails(_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(checkpoint, "flush", fails)
    with pytest.raises(WriteError, match=r"step 5 was not written .*Read-only file system"):
        fit(RARE, digits, tmp_path / "run")
    assert status(tmp_path / "run")["status"] == "failed"


def test_a_loop_of_ones_own_that_is_left_loses_no_epoch(digits, tmp_path):
    from flaxcnn.engine.train import training

    with training(RARE, digits, tmp_path / "run") as run:
        steps = run.epochs()
        for _ in range(3):
            next(steps)
        steps.close()
    assert "3" in {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}


@pytest.mark.slow
def test_stopped_and_killed_at_random_moments(child, quiet):
    """A process of its own, ten times; a kill after a stop costs no more than since the stop."""
    seed = random.randrange(2**32)
    print(f"seed of the moments: {seed}")  # shown if the test fails
    draw, run, codes = random.Random(seed), child.folder / "run", []
    while not (run / "summary.json").exists():
        resumed = ("--resume",) if (run / "config.json").exists() else ()
        before = len(RunDirectory(run).history())
        process = child.start(
            "train", child.recipe, "--run-dir", run, "-s", "save_every=50", *resumed
        )
        if len(codes) < 10:
            aim = before + draw.choice([0, 0, 1])
            deadline = time.monotonic() + SAFETY_NET
            while not (run / "metrics.jsonl").exists() or len(RunDirectory(run).history()) < aim:
                assert time.monotonic() < deadline
                if process.poll() is not None:
                    break
                time.sleep(0.001)
            # at once: while Python starts and imports
            time.sleep(draw.uniform(0, 0.02 if aim > before else 0.5))
            process.send_signal(draw.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL]))
        codes.append(child.finish(process).returncode)
        # the signals themselves end Python until it runs the first line of the package
        assert codes[-1] in (0, 75, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGUSR1)
    assert 75 in codes
    assert status(run)["status"] == "complete"
    digest = [json.loads((p / "summary.json").read_text())["params_digest"] for p in (run, quiet)]
    assert digest[0] == digest[1]
    assert epochs_of(run) == epochs_of(quiet)


# -- who hears of signals ------------------------------------------------------------------------


def test_handlers_of_the_user_are_given_back(digits, tmp_path):
    heard = []
    before = {n: signal.getsignal(n) for n in EXIT_CODES}

    def own(number, frame):
        heard.append(signal.Signals(number))

    try:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, own)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        mine = {n: signal.getsignal(n) for n in EXIT_CODES}

        def during(metrics):
            for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
                signal.raise_signal(number)

        error = stopped(RARE, digits, tmp_path / "run", on_epoch=during)
        assert "SIGTERM" in str(error), "SIGHUP is ignored, and SIGUSR1 has a use of its own"
        assert heard == [signal.SIGUSR1]
        assert {n: signal.getsignal(n) for n in EXIT_CODES} == mine
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_handlers_within_handlers():
    first, second = [], []
    outer = Handlers(lambda number, _: first.append(number))
    inner = Handlers(lambda number, _: second.append(number))
    outer.install()
    inner.install()
    signal.raise_signal(signal.SIGUSR1)
    inner.remove()
    signal.raise_signal(signal.SIGUSR1)
    outer.remove()
    assert (first, second) == ([signal.SIGUSR1], [signal.SIGUSR1])
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


# -- how long a part is --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "steps"), [(0.01, 200), (1.9, 1), (60.0, 1)])
def test_a_part_takes_as_long_as_asked(seconds, steps):
    assert next_steps(1000, 1000, 2.0, seconds) == steps


def test_the_parts_of_an_epoch_are_all_of_it():
    draw = random.Random(0)
    for _ in range(100):
        total, left = draw.randrange(1, 500), 0
        left = total
        while left:
            steps = next_steps(left, draw.randrange(1, 500), 2.0, draw.uniform(0.001, 3))
            assert 1 <= steps <= left
            left -= steps


def test_an_accelerator_has_an_epoch_in_one_call_unless_it_may_take_long(digits):
    from flaxcnn.engine.job import make_plan

    plan = make_plan(TINY, 1150, devices=1)
    gpu = dataclasses.replace(plan, sharding=dataclasses.replace(plan.sharding, platform="gpu"))
    asked = (TINY, digits.shape, digits.num_classes)
    assert part_steps(plan, *asked) == plan.steps_per_epoch
    assert part_steps(gpu, *asked) == 0
    hasty = dataclasses.replace(TINY, grace=0.02)
    assert part_steps(gpu, hasty, *asked[1:]) == 4


@pytest.mark.slow
def test_masked_steps_do_not_count(digits):
    """As on an accelerator: parts of a fixed length, of which only the first steps are meant."""
    import jax

    from flaxcnn.engine import epoch
    from flaxcnn.engine.digest import tree_digest
    from flaxcnn.engine.make_job import make_job

    job = make_job(TINY, digits)
    plan = dataclasses.replace(
        job.plan, part_steps=5, sharding=dataclasses.replace(job.plan.sharding, platform="gpu")
    )
    part = jax.jit(epoch.train_part, static_argnums=0)
    found = []
    for spans in (((0, 5), (5, 5), (10, 3)), ((0, 4), (4, 1), (5, 5), (10, 3))):
        state, order, losses = job.init(), job._no_order, []
        for first, count in spans:
            which = np.array([first, count, first == 0], np.int32)
            span = epoch.Span(order, jax.device_put(which, job.placement))
            state, sums, order = part(plan, state, job.hypers, job.data, job._train_rows, span)
            losses.extend(np.asarray(sums.loss)[:count].tolist())
        found.append((tree_digest(jax.device_get(state)), losses))
    assert found[0] == found[1]
    _, sums = job.train_epoch(job.init())  # whose convolutions are those of a CPU
    np.testing.assert_allclose(losses, np.asarray(sums.loss), rtol=1e-5)
