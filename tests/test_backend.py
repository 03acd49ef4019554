"""A jax that sums wrongly is refused before it computes anything; a sound one is asked once."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import pytest
from packaging.requirements import Requirement

from flaxcnn import backend
from flaxcnn.engine import hosts
from flaxcnn.errors import FlaxcnnError, OutOfMemoryError

ROOT = Path(__file__).parents[1]
WRONG = ("0.10.2", "0.11.0", "0.11.1", "0.11.2")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXCNN_CACHE_DIR", str(tmp_path / "cache"))
    backend.require_sound.cache_clear()
    yield tmp_path / "cache"
    backend.require_sound.cache_clear()


@pytest.fixture
def probes(monkeypatch):
    """One entry for each time the probe ran."""
    found = []

    def probe():
        found.append(1)
        return True

    monkeypatch.setattr(backend, "sums_are_right", probe)
    return found


def start():
    """What a new process does first."""
    backend.require_sound.cache_clear()
    backend.require_sound()


def test_the_sums_of_this_jax_are_right():
    assert backend.sums_are_right()


def test_one_wrong_sum_of_many_is_noticed(monkeypatch):
    """The race shows now and then: the last call errs, by less than a percent."""
    calls = []

    def jit(function):
        def run(x):
            calls.append(1)
            right = float(function(x))
            return right * (1.001 if len(calls) == backend.PROBES else 1)

        return run

    monkeypatch.setattr(jax, "jit", jit)
    assert not backend.sums_are_right()
    assert len(calls) == backend.PROBES


def test_wrong_sums_are_refused_with_both_ways_out(monkeypatch, cache):
    monkeypatch.setattr(backend, "sums_are_right", lambda: False)
    for _ in range(2):  # the refusal is not what is remembered
        with pytest.raises(FlaxcnnError) as error:
            start()
        text = str(error.value)
        assert f"jaxlib {jax.lib.__version__} returns wrong sums" in text
        assert "0.10.1" in text
        assert f"XLA_FLAGS={backend.MENDING_FLAG}" in text
        assert error.value.exit_code == 1
    assert not list(cache.rglob("*"))


def test_the_verdict_is_kept(probes, cache):
    for _ in range(3):
        start()
    assert len(probes) == 1
    (verdict,) = (cache / "probe").iterdir()
    assert verdict.read_text() == "sound\n"
    backend.require_sound()


@pytest.mark.parametrize("change", ["version", "flags", "processors"])
def test_the_verdict_is_that_of_one_version_and_its_flags(probes, monkeypatch, change):
    start()
    if change == "version":
        monkeypatch.setattr(jax.lib, "__version__", "0.11.2")
    elif change == "flags":
        monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    else:
        monkeypatch.setattr(os, "cpu_count", lambda: 1000)
    start()
    assert len(probes) == 2
    start()
    assert len(probes) == 2


def test_nowhere_to_keep_it_is_no_error(probes, cache):
    cache.write_text("a file in the way")
    start()
    start()
    assert len(probes) == 2


def test_other_backends_are_not_asked(probes, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    start()
    assert not probes


def test_the_cache_is_where_it_is_said(monkeypatch, tmp_path):
    assert backend.cache_root() == tmp_path / "cache"
    monkeypatch.setenv("FLAXCNN_CACHE_DIR", "~/somewhere")
    assert backend.cache_root() == Path.home() / "somewhere"
    monkeypatch.delenv("FLAXCNN_CACHE_DIR")
    assert backend.cache_root().name == "flaxcnn"


@pytest.fixture
def settings(monkeypatch):
    """jax's settings as `prepare` finds them in a new process, and what it makes of them."""
    now = {"jax_num_cpu_devices": -1, "jax_enable_compilation_cache": True,
           "jax_compilation_cache_dir": None}  # fmt: skip

    class Settings:
        def __getattr__(self, name):
            return now[name]

        def update(self, name, value):
            now[name] = value

    monkeypatch.setattr(backend.jax, "config", Settings())
    monkeypatch.setattr(backend, "sums_are_right", lambda: True)
    return now


def test_one_cpu_device_a_core(settings, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)), raising=False)
    backend.prepare()
    assert settings["jax_num_cpu_devices"] == 3


@pytest.mark.parametrize(
    ("name", "value", "cores"),
    [("PJRT_NPROC", "2", 2), ("NPROC", "1", 1), ("NPROC", "0", 16), ("NPROC", "all", 16)],
)
def test_cores_are_those_we_may_use(monkeypatch, name, value, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setenv(name, value)
    assert backend.cores() == cores


def test_what_the_user_set_stays(settings, monkeypatch):
    settings.update(jax_num_cpu_devices=5, jax_compilation_cache_dir="/mine")
    backend.prepare()
    assert settings["jax_num_cpu_devices"] == 5
    assert settings["jax_compilation_cache_dir"] == "/mine"
    settings.update(jax_num_cpu_devices=-1)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=7")
    backend.prepare()
    assert settings["jax_num_cpu_devices"] == -1


def test_programs_are_kept_in_a_private_folder(settings, cache):
    backend.prepare()
    folder = Path(settings["jax_compilation_cache_dir"])
    assert folder.parent == cache / "compiled"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert settings["jax_persistent_cache_min_compile_time_secs"] == 0


def test_another_jaxlib_or_processor_has_another_folder(settings, monkeypatch):
    def folder():
        settings["jax_compilation_cache_dir"] = None
        backend.prepare()
        return settings["jax_compilation_cache_dir"]

    here = folder()
    monkeypatch.setattr(backend, "processor", lambda: "another")
    there = folder()
    monkeypatch.setattr(jax.lib, "__version__", "0.12.0")
    assert len({here, there, folder()}) == 3


def test_a_folder_that_others_can_write_is_not_used(settings):
    backend.prepare()
    Path(settings["jax_compilation_cache_dir"]).chmod(0o777)
    settings["jax_compilation_cache_dir"] = None
    backend.prepare()
    assert settings["jax_compilation_cache_dir"] is None


def test_without_cache_nothing_is_kept(settings, cache):
    backend.prepare(cache=False)
    backend.prepare()  # as `fit` does after a command's --no-cache
    assert not settings["jax_enable_compilation_cache"]
    assert settings["jax_compilation_cache_dir"] is None
    assert not (cache / "compiled").exists()


def test_a_home_that_cannot_be_written_is_no_error(settings, cache):
    cache.write_text("a file in the way")
    backend.prepare()
    assert settings["jax_compilation_cache_dir"] is None


def test_the_oldest_programs_go_first(settings, monkeypatch):
    backend.prepare()
    folder = Path(settings["jax_compilation_cache_dir"])
    for age, name in enumerate(("new", "middle", "old")):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(backend, "CACHE_LIMIT", 250)
    settings["jax_compilation_cache_dir"] = None
    backend.prepare()
    assert sorted(path.name for path in folder.iterdir()) == ["middle", "new"]


@pytest.mark.parametrize("package", ["jax", "jaxlib"])
def test_the_wrong_versions_cannot_be_installed(package):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (requirement,) = [r for r in map(Requirement, project["dependencies"]) if r.name == package]
    assert not [v for v in WRONG if requirement.specifier.contains(v)]
    for sound in ("0.10.0", "0.10.1", "0.12.0"):
        assert requirement.specifier.contains(sound)


# -- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of\nmemory allocating 9 bytes"),
         "(RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes)"),
        (jax.errors.JaxRuntimeError("INTERNAL: dispatching: Out of memory allocating 9 bytes"),
         "(Out of memory allocating 9 bytes)"),
        (jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY"), "(OUT_OF_MEMORY)"),
        (MemoryError("Unable to allocate 9 GiB"), "(Unable to allocate 9 GiB)"),
        (MemoryError(), "(MemoryError)"),
    ],
)  # fmt: skip
def test_too_little_memory_is_a_sentence(error, shown):
    @backend.enough_memory()
    def work():
        raise error

    with pytest.raises(OutOfMemoryError, match=r"^out of memory \(") as found:
        work()
    assert shown in str(found.value)
    assert "accumulate=N" in str(found.value)


def test_other_failures_of_jax_are_left_as_they_are():
    with pytest.raises(jax.errors.JaxRuntimeError), backend.enough_memory():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_a_process_without_memory_has_not_lost_another(monkeypatch):
    monkeypatch.setattr(hosts, "several", lambda: True)
    with pytest.raises(OutOfMemoryError), hosts.lost_peers(), backend.enough_memory():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")


# -- convolutions by oneDNN, where XLA_FLAGS ask for it -------------------------------------------

ONEDNN = f"{backend.ONEDNN_FLAG} {backend.YNN_BUT_CONVOLUTIONS}"
# Values and both gradients of a convolution in a loop against float64, and what did it.
CONVOLUTION = """
import jax, jax.numpy as jnp, numpy as np
from flaxcnn import backend
from flaxcnn.model.kernels import conv2d
backend.prepare()
draws = np.random.default_rng(0)
worst = 0.0
for channels, filters, kernel in [(1, 16, 3), (3, 32, 5), (40, 24, 3)]:
    x = draws.standard_normal((8, 12, 11, channels)).astype(np.float32)
    w = draws.standard_normal((kernel, kernel, channels, filters)).astype(np.float32)
    ours = lambda x, w: conv2d(x, w, (1, 1), "same", "cpu")
    plain = lambda x, w: jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    def both(conv, x, w):
        y, back = jax.vjp(conv, x, w)
        return y, *back(y)
    loop = jax.jit(lambda x, w: jax.lax.scan(lambda w, x: (w, both(ours, x, w)), w, x[None])[1])
    compiled = loop.lower(x, w).compile()
    assert ("__onednn$convolution" in compiled.as_text()) == backend.by_onednn()
    found = [np.asarray(one[0], np.float64) for one in compiled(x, w)]
    with jax.enable_x64(True):
        exact = [np.asarray(one) for one in both(plain, *map(jnp.float64, (x, w)))]
    for one, other in zip(found, exact, strict=True):
        worst = max(worst, np.abs(one - other).max() / np.abs(other).max())
print(backend.by_onednn(), jax.config.jax_enable_compilation_cache, worst < 1e-6, worst)
"""


def test_which_flags_and_releases_mean_onednn(monkeypatch):
    def chosen(release, flags):
        monkeypatch.setattr(jax.lib, "__version__", release)
        monkeypatch.setenv("XLA_FLAGS", flags)
        return backend.by_onednn.__wrapped__()

    assert chosen("0.12.0.1", f"--xla_force_host_platform_device_count=4 {ONEDNN}")
    assert not chosen("0.10.1", ONEDNN)
    assert not chosen("0.12.0.1", "")
    assert not chosen("0.12.0.1", ONEDNN.replace("=true", "=false"))


@pytest.mark.skipif(
    tuple(map(int, jax.lib.__version__.split(".")[:2])) < backend.FIRST_WITH_ONEDNN,
    reason="this jaxlib gives no convolution to oneDNN",
)
@pytest.mark.parametrize("flags", ["", ONEDNN])
def test_convolutions_are_right_in_a_loop_whoever_computes_them(flags):
    done = subprocess.run(
        [sys.executable, "-c", CONVOLUTION], capture_output=True, text=True, check=True,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    by_onednn, cached, right, worst = done.stdout.split()
    assert by_onednn == str(bool(flags))
    assert right == "True", worst
    # jaxlib cannot write down a program that calls oneDNN
    assert not (cached == "True" and flags)
