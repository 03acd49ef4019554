"""What every test rests on: four virtual CPU devices, strict jax, no settings from outside."""

import os
from pathlib import Path

# Read when jaxlib is imported: reading a kept program makes it complain (see cli/main.py).
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import jax
import pytest
from hypothesis import settings

# Four devices make every sharding visible on a laptop; the flags make silent widening and silent
# broadcasting errors. All of it must be said before jax looks for its devices.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# A compilation can take a second on a busy machine, which no deadline should call a failure.
settings.register_profile("dev", deadline=None, max_examples=100)
# The same examples in every run of CI: a red run there has its cause in the change.
settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


# Their tests look at what the compiler makes: bits of one form against those of another, kernels,
# the programs of other chips, seconds.
FULLY_OPTIMISED = {
    "accelerators", "augment", "benchmarks", "engine", "model", "multihost",
    "test_backend.py", "test_numerics.py", "test_rng.py", "test_run_state.py", "test_runs.py",
    "test_xla_messages.py",
}  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """All other tests compile with less effort, which takes a third less time, children too."""
    place = item.path.relative_to(Path(__file__).parent)  # a checkout may be in a folder `engine`
    fully = bool(FULLY_OPTIMISED.intersection(place.parts))
    jax.config.update("jax_disable_most_optimizations", not fully)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0" if fully else "1"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    """A FLAXCNN_* variable of the developer's shell must not decide what a test sees.

    FLAXCNN_ARCHIVES is read by the modules that need real archives when they are imported, before
    any test runs.
    """
    for name in list(os.environ):
        if name.startswith("FLAXCNN_"):
            monkeypatch.delenv(name)
