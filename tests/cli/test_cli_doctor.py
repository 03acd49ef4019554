"""`flaxcnn doctor`: every finding has a name and a verdict, and a bad one is the exit code."""

import os

import pytest

from flaxcnn import backend, collectives, doctor, hardware, numerics


def test_a_sound_machine(flaxcnn):
    done = flaxcnn("doctor", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json["ok"] is True
    found = {check["name"]: check for check in done.json["checks"]}
    assert {"jax", "jaxlib", "flax", "python", "devices", "sums", "XLA_FLAGS"} <= set(found)
    assert found["sums"]["verdict"] == "ok"
    assert found["data digits"]["verdict"] == "ok"
    assert "flaxcnn data prepare mnist" in found["data mnist"]["detail"]
    *lines, empty, last = flaxcnn("doctor").out.splitlines()
    assert (empty, last) == ("", done.json["conclusion"])
    assert [line[9:31].strip() for line in lines] == list(found)
    assert {line[:8].strip() for line in lines} <= {"ok", "note", "warning"}


def test_wrong_sums_are_bad(flaxcnn, monkeypatch):
    monkeypatch.setattr(backend, "sums_are_right", lambda: False)
    done = flaxcnn("doctor", "--json")
    assert done.code == 1
    assert done.json["ok"] is False
    (bad,) = [check for check in done.json["checks"] if check["verdict"] == "bad"]
    assert bad["name"] == "sums"
    assert backend.MENDING_FLAG in bad["detail"]


def test_a_folder_that_cannot_be_written_is_bad(flaxcnn, monkeypatch, home):
    (home / "locked").mkdir()
    monkeypatch.setenv("FLAXCNN_RUNS_DIR", str(home / "locked" / "runs"))
    access = os.access
    monkeypatch.setattr(  # root may write everywhere
        os, "access", lambda path, mode: path != home / "locked" and access(path, mode)
    )
    done = flaxcnn("doctor")
    assert done.code == 1
    assert (
        f"bad      runs folder            {home / 'locked' / 'runs'}: cannot be written" in done.out
    )


def test_a_full_disk_is_a_warning(flaxcnn, monkeypatch):
    monkeypatch.setattr(doctor, "LOW_DISK_BYTES", 2**62)
    done = flaxcnn("doctor", "--json")
    assert done.code == 0
    folders = [c for c in done.json["checks"] if c["name"].endswith(" folder")]
    assert [c["verdict"] for c in folders] == ["warning"] * 3


@pytest.mark.parametrize("name", ["FLAXCNN_CACHE_DIR", "FLAXCNN_DATA_DIR", "FLAXCNN_RUNS_DIR"])
def test_a_file_where_a_folder_should_be_is_bad(flaxcnn, monkeypatch, home, name):
    monkeypatch.setenv(name, str(home / "recipes.py" / "below"))
    done = flaxcnn("doctor")
    assert done.code == 1
    assert "Traceback" not in done.err
    assert [line[:3] for line in done.out.splitlines() if " folder" in line].count("bad") == 1


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Names below /dev -> a machine that has them, and no driver or plugin but those said."""
    monkeypatch.setattr(hardware, "ROOT", tmp_path / "machine")
    monkeypatch.setattr(hardware, "PACKAGES", ())
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)

    def has(*devices, driver=None):
        for name in devices:
            path = tmp_path / "machine" / "dev" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        if driver:
            folder = tmp_path / "machine/proc/driver/nvidia"
            folder.mkdir(parents=True)
            text = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Tue\n"
            (folder / "version").write_text(text)

    return has


def finding(flaxcnn, name):
    found = {check["name"]: check for check in flaxcnn("doctor", "--json").json["checks"]}
    return found.get(name)


@pytest.mark.parametrize(
    ("devices", "driver", "kind", "extra"),
    [
        (["nvidia0", "nvidiactl"], "580.65.06", "GPU", "cuda13"),
        (["nvidia0"], "535.104.05", "GPU", "cuda12"),
        (["nvidia0"], None, "GPU", "cuda13"),
        (["accel0", "accel1"], None, "TPU", "tpu"),
        (["vfio/0", "vfio/vfio"], None, "TPU", "tpu"),
    ],
)
def test_an_accelerator_without_its_plugin(flaxcnn, machine, devices, driver, kind, extra):
    machine(*devices, driver=driver)
    check = finding(flaxcnn, kind)
    assert check["verdict"] == "warning"
    assert "is there, but jax computes on the CPU" in check["detail"]
    assert check["detail"].endswith(f"pip install 'flaxcnn[{extra}]'")


@pytest.mark.parametrize(
    ("devices", "platforms", "end"),
    [
        ([], None, ""),
        (["nvidia0"], None, ", but an NVIDIA GPU is here and jax is the CPU build: pip install "
         "'flaxcnn[cuda13]'"),
        (["accel0"], None, ", but a TPU is here and jax is the CPU build: pip install "
         "'flaxcnn[tpu]'"),
        (["nvidia0"], "cpu", ", but an NVIDIA GPU is here and jax does not use it: "
         "JAX_PLATFORMS=cpu says so"),
    ],
)  # fmt: skip
def test_the_last_sentence_says_whether_one_can_train(
    flaxcnn, machine, monkeypatch, devices, platforms, end
):
    machine(*devices)
    monkeypatch.setattr(backend, "cores", lambda: 2)
    if platforms:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert flaxcnn("doctor").out.splitlines()[-1] == f"ready to train on 2 CPU cores{end}"


def test_the_last_sentence_names_what_is_bad(flaxcnn, monkeypatch):
    monkeypatch.setattr(backend, "sums_are_right", lambda: False)
    last = flaxcnn("doctor").out.splitlines()[-1]
    assert last.startswith("not ready to train: sums: wrong sums")


def test_no_accelerator_is_no_finding(flaxcnn, machine):
    assert finding(flaxcnn, "GPU") is finding(flaxcnn, "TPU") is None


def test_a_machine_told_to_use_its_cpu_says_so(flaxcnn, machine, monkeypatch):
    machine("nvidia0")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert finding(flaxcnn, "GPU")["detail"].endswith("JAX_PLATFORMS=cpu says so")


def test_a_plugin_that_cannot_use_the_gpu(flaxcnn, machine, monkeypatch):
    machine("nvidia0", driver="535.104.05")
    software = {"jax-cuda13-plugin": "0.10.1", "nvidia-driver": "535.104.05"}
    monkeypatch.setattr("flaxcnn.records.environment.software", lambda: software)
    assert finding(flaxcnn, "jax-cuda13-plugin")["detail"] == "0.10.1"
    assert "jax-cuda13-plugin cannot use it" in finding(flaxcnn, "GPU")["detail"]
    check = finding(flaxcnn, "driver")
    assert check["verdict"] == "warning"
    assert "NVIDIA driver 535.104.05, but CUDA 13 needs 580 or newer" in check["detail"]


@pytest.mark.parametrize(
    ("platform", "asked", "means"),
    [("cpu", None, "not set: products of float32 are computed in float32"),
     ("gpu", None, "not set: products of float32 are computed in TensorFloat-32"),
     ("tpu", None, "not set: products of float32 are computed in bfloat16"),
     ("tpu", "highest", "highest: products of float32 are computed in float32")],
)  # fmt: skip
def test_what_products_are_computed_in(monkeypatch, platform, asked, means):
    monkeypatch.setattr("jax.default_backend", lambda: platform)
    monkeypatch.setattr(numerics, "_asked", lambda: asked)
    assert doctor._precision({"matmul_precision": str(asked)}) == means


@pytest.fixture
def findings(monkeypatch):
    """What the suite finds, in place of the suite."""
    found = [
        numerics.judged("sort", 0.0), numerics.compared("product", [1.0], [1.1], 1.0, 0.5),
        numerics.Finding("all-reduce", "not run", reason="there is one device"),
    ]  # fmt: skip
    monkeypatch.setattr(numerics, "checks", lambda: found)
    monkeypatch.setattr(collectives, "checks", list)
    return found


def test_numerics_have_a_line_a_check(flaxcnn, findings):
    assert finding(flaxcnn, "numerics")["detail"] == "not run; flaxcnn doctor --numerics"
    done = flaxcnn("doctor", "--numerics")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-5:-2] == [
        "ok       sort                           worst relative error 0.0e+00, allowed 0.0e+00",
        "ok       product                        worst relative error 1.0e-01, allowed 5.0e-01 "
        "(as in jax#40633, jax#39486)",
        "not run  all-reduce                     there is one device",
    ]
    assert finding(flaxcnn, "numerics")["detail"] == "2 checks passed"


def test_wrong_numerics_are_bad_then_and_later(flaxcnn, findings):
    findings[1] = numerics.judged("product", 1.0, 0.5)
    done = flaxcnn("doctor", "--numerics", "--json")
    assert done.code == 1
    assert done.json["ok"] is False
    assert [one["verdict"] for one in done.json["numerics"]] == ["ok", "failed", "not run"]
    assert done.json["numerics"][1]["upstream"] == "jax#40633, jax#39486"
    later = flaxcnn("doctor")
    assert later.code == 1
    assert "bad      numerics               wrong: product" in later.out
