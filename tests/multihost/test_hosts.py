"""Several real processes are one run: the same bits, one writer, and one end, whatever happens."""

import json
import re
import signal
import socket
import time

import pytest

pytestmark = pytest.mark.slow
EXACT = ("-s", "determinism=exact", "-s", "virtual_shards=8", "-s", "batch_norm=per_shard")
# Another order of float32 sums, over twelve updates.
CLOSE = 1e-4
# jax notices a process that is gone or stands still after its heartbeat, and then ends the others.
BOUNDED_SECONDS = 15 + 10  # the second for a machine that runs other tests meanwhile
LONG = ("train", "recipes.py:dropped", "-s", "epochs=2000", "-s", "save_every=1")


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def wait_for_epochs(run, count, processes):
    """Until `count` epochs are recorded."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        path = run / "metrics.jsonl"
        if path.is_file() and path.read_bytes().count(b"\n") >= count:
            return
        assert all(p.poll() is None for p in processes), [p.communicate() for p in processes]
        time.sleep(0.02)
    raise AssertionError("no epoch")


@pytest.mark.parametrize(
    "recipe",
    [pytest.param("plain", marks=pytest.mark.soak), "normed",
     pytest.param("dropped", marks=pytest.mark.soak)],
)  # fmt: skip
def test_exact_bits_do_not_depend_on_processes_and_devices(hosts, home, recipe):
    found = {}
    for processes, devices in ((1, 1), (1, 8), (2, 4), (4, 2), (2, 1)):
        name = f"exact-{recipe}-{processes}x{devices}"
        command = ("train", f"recipes.py:{recipe}", *EXACT, "--run-dir", name)
        started = (
            [hosts.start(*command, devices=devices)] if processes == 1
            else hosts.group(processes, *command, devices=devices)
        )  # fmt: skip
        for code, _, err in hosts.finish(started):
            assert code == 0, err
        row = summary(home / name)
        found[processes, devices] = row["params_digest"], row["val_loss"], row["test_loss"]
    assert len(set(found.values())) == 1, found


def test_processes_change_nothing_but_the_order_of_sums(hosts, home):
    hosts.finish([hosts.start("train", "recipes.py:normed", "--run-dir", "alone")])
    done = hosts.finish(hosts.group(2, "train", "recipes.py:normed", "--run-dir", "two", devices=2))
    assert [code for code, _, _ in done] == [0, 0]
    for key in ("train_loss", "val_loss", "test_loss"):
        assert summary(home / "two")[key] == pytest.approx(summary(home / "alone")[key], rel=CLOSE)
    assert "test accuracy" in done[0][1]
    assert done[1][1] == ""  # one speaks
    assert "2 processes with 4 devices" in done[0][1]


def test_sigterm_to_one_saves_the_same_step_on_all(hosts, home):
    run = home / "preempted"
    processes = hosts.group(2, *LONG, "--run-dir", run)
    wait_for_epochs(run, 3, processes)
    processes[1].send_signal(signal.SIGTERM)
    done = hosts.finish(processes)
    assert [code for code, _, _ in done] == [75, 75]
    assert json.loads((run / "status.json").read_text())["status"] == "interrupted"
    recorded = (run / "metrics.jsonl").read_bytes().count(b"\n")
    saved = [p.name for p in (run / "checkpoints").iterdir()]
    assert str(recorded) in saved or "within" in saved  # where a step takes long
    resumed = hosts.group(2, *LONG[:2], "-s", f"epochs={recorded + 1}", "--run-dir", run,
                          "--resume")  # fmt: skip
    assert [code for code, _, _ in hosts.finish(resumed)] == [0, 0]
    assert summary(run)["epochs_run"] == recorded + 1


@pytest.mark.parametrize(
    "way",
    [pytest.param((), id="resident"),
     pytest.param(("-s", "input=stream", "-s", "workers=0", "-s", "data_memory=5000"),
                  id="streamed", marks=pytest.mark.soak),
     pytest.param(("-s", "shard_optimizer=true", "-s", "optimizer=adam",
                   "-s", "on_nonfinite=rollback"), id="sharded")],
)  # fmt: skip
def test_sigterm_within_an_epoch_stops_all_at_the_same_step(hosts, tmp_path, way):
    """No step is done again, and the bits are those of a run that nobody stopped."""
    command = ("train", "recipes.py:dropped", "-s", "batch_size=2", "-s", "save_every=50",
               "-s", "grace=0.2", *way)  # fmt: skip
    unstopped, run = tmp_path / "unstopped", tmp_path / "stopped"
    whole = hosts.finish(hosts.group(2, *command, "--run-dir", unstopped))
    assert [code for code, _, _ in whole] == [0, 0], [err for _, _, err in whole]
    for _ in range(2):  # the first call does one step, and the second time none is begun
        processes = hosts.group(2, *command, "--run-dir", run, "--resume-if-any")
        while status_of(run) != "running" and processes[0].poll() is None:
            time.sleep(0.01)
        processes[1].send_signal(signal.SIGTERM)
        for code, _, err in hosts.finish(processes):
            assert code == 75, err
            assert re.search(r"stopped in epoch 1 after [1-9]\d* of 75 steps", err)
    assert (run / "checkpoints" / "within").is_dir()
    resumed = hosts.finish(hosts.group(2, *command, "--run-dir", run, "--resume"))
    assert [code for code, _, _ in resumed] == [0, 0], resumed
    assert summary(run)["params_digest"] == summary(unstopped)["params_digest"]
    assert not (run / "checkpoints" / "within").exists()


def status_of(run):
    path = run / "status.json"
    return json.loads(path.read_text())["status"] if path.is_file() else None


@pytest.mark.parametrize(
    ("victim", "fault"),
    [
        pytest.param(0, signal.SIGKILL, id="0-killed"),
        pytest.param(1, signal.SIGSTOP, id="1-stopped"),
        pytest.param(0, signal.SIGSTOP, id="0-stopped", marks=pytest.mark.soak),
        pytest.param(1, signal.SIGKILL, id="1-killed", marks=pytest.mark.soak),
    ],
)
def test_a_lost_process_ends_the_others_in_time(hosts, home, fault, victim):
    run = home / f"lost-{fault}-{victim}"
    processes = hosts.group(2, *LONG, "--run-dir", run)
    wait_for_epochs(run, 2, processes)
    processes[victim].send_signal(fault)
    began = time.monotonic()
    survivor = processes[1 - victim]
    survivor.wait(timeout=120)
    assert time.monotonic() - began < BOUNDED_SECONDS
    processes[victim].kill()
    _, err = survivor.communicate()
    processes[victim].communicate()
    assert survivor.returncode in (75, 134, -signal.SIGABRT), err
    if survivor.returncode == 75:
        assert f"process {1 - victim} lost another process of 2" in err
        assert "Traceback" not in err


def test_launch_resumes_to_the_same_bits(hosts, home):
    """SIGKILL of one process; the others end, all start again, and the bits are the same."""
    command = ("train", "recipes.py:dropped", *EXACT, "-s", "epochs=60")
    hosts.finish([hosts.start(*command, "--run-dir", "unbroken", devices=2)])
    run = home / "broken"
    launcher = hosts.start("launch", "--processes", 2, "--max-restarts", 2, "--", *command,
                           "--run-dir", run)  # fmt: skip
    wait_for_epochs(run, 3, [launcher])
    victim = children_of(launcher.pid)[1]
    victim.send_signal(signal.SIGKILL)
    ((code, out, err),) = hosts.finish([launcher])
    assert code == 0, err
    assert "restarting from epoch" in err
    assert summary(run)["params_digest"] == summary(home / "unbroken")["params_digest"]
    assert "[Gloo]" not in out + err


def children_of(pid):
    import psutil

    return sorted(psutil.Process(pid).children(), key=lambda child: child.pid)


def test_launch_does_not_restart_what_cannot_be_resumed(hosts, home):
    started = hosts.start(
        "launch",
        "--processes",
        2,
        "--max-restarts",
        5,
        "--",
        "train",
        "recipes.py:plain",
        "-s",
        "learning_rate=1e30",
        "-s",
        "epochs=3",
    )
    ((code, _, err),) = hosts.finish([started])
    assert code == 4, err
    assert "error: epoch 1" in err
    assert "restarting" not in err


def test_a_finished_launch_speaks_json(hosts):
    started = hosts.start("launch", "--processes", 2, "--", "train", "recipes.py:plain", "--json")
    ((code, out, err),) = hosts.finish([started])
    assert code == 0, err
    assert json.loads(out)["epochs_run"] == 2


@pytest.mark.parametrize(
    ("devices", "limit"),
    [(1, None), pytest.param(2, None, marks=pytest.mark.soak), (4, None)],
)
def test_a_checkpoint_of_eight_devices_goes_on_with_fewer(hosts, home, devices, limit):
    """Elastic resume: the same bits in exact mode."""
    command = ("train", "recipes.py:normed", *EXACT)
    run = home / f"elastic-{devices}"
    hosts.finish([hosts.start(*command, "--run-dir", run, devices=8)])
    longer = hosts.start(*command, "-s", "epochs=4", "--run-dir", run, "--resume", devices=devices)
    ((code, _, err),) = hosts.finish([longer])
    assert code == 0, err
    whole = home / "elastic-whole"
    if not whole.is_dir():
        hosts.finish([hosts.start(*command, "-s", "epochs=4", "--run-dir", whole, devices=8)])
    assert summary(run)["params_digest"] == summary(whole)["params_digest"]


def test_a_fast_checkpoint_goes_on_close_by(hosts, home):
    run = home / "elastic-fast"
    hosts.finish([hosts.start("train", "recipes.py:plain", "--run-dir", run, devices=4)])
    more = ("train", "recipes.py:plain", "-s", "epochs=4")
    done = hosts.finish(hosts.group(2, *more, "--run-dir", run, "--resume"))
    assert [code for code, _, _ in done] == [0, 0]
    hosts.finish([hosts.start(*more, "--run-dir", "elastic-fast-whole", devices=4)])
    whole = summary(home / "elastic-fast-whole")
    assert summary(run)["test_loss"] == pytest.approx(whole["test_loss"], rel=CLOSE)


# -- bad input -----------------------------------------------------------------------------------


def test_other_recipes_are_named(hosts):
    own = [("-s", "epochs=2"), ("-s", "epochs=3")]
    done = hosts.finish(hosts.group(2, "train", "recipes.py:plain", own=own))
    for code, _, err in done:
        assert code == 2
        assert "process 1 has other recipe than process 0" in err


def test_other_code_is_named(hosts, tmp_path):
    """A copy of the package with one more line, on one host."""
    import shutil

    import flaxcnn

    shutil.copytree(flaxcnn.__path__[0], tmp_path / "flaxcnn")
    with (tmp_path / "flaxcnn" / "rng.py").open("a") as file:
        file.write("# changed\n")
    processes = hosts.group(2, "train", "recipes.py:plain", "--run-dir", "other-code")
    processes[1].kill()
    processes[1].communicate()
    where = processes[0].args[processes[0].args.index("--coordinator") + 1]
    changed = hosts.start(
        "train",
        "recipes.py:plain",
        "--run-dir",
        "other-code",
        "--coordinator",
        where,
        "--processes",
        2,
        "--process",
        1,
        PYTHONPATH=str(tmp_path),
    )
    for code, _, err in hosts.finish([processes[0], changed]):
        assert code == 2, err
        assert "process 1 has other code than process 0" in err


def test_a_busy_port_is_named(hosts):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        started = hosts.start("train", "recipes.py:plain", "--coordinator", f"127.0.0.1:{port}",
                              "--processes", 2, "--process", 0)  # fmt: skip
        ((code, _, err),) = hosts.finish([started])
    assert code == 1
    assert f"port {port} cannot be used" in err


@pytest.mark.parametrize("process", [0, 1])
def test_a_missing_process_is_not_waited_for_for_ever(hosts, process):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{probe.getsockname()[1]}"
    started = hosts.start("train", "recipes.py:plain", "--coordinator", where, "--processes", 2,
                          "--process", process, FLAXCNN_START_SECONDS="3")  # fmt: skip
    ((code, _, err),) = hosts.finish([started])
    assert code == 75
    assert f"error: {where}: not all 2 processes came within 3 s" in err
    assert len(err.splitlines()) == 1


def test_shards_that_the_devices_cannot_share(hosts):
    done = hosts.finish(hosts.group(2, "train", "recipes.py:plain", "-s", "determinism=exact"))
    assert {code for code, _, _ in done} == {2}
    assert (
        "virtual_shards must be a multiple of 2, the devices of 2 processes (got 1)" in (done[0][2])
    )
