"""Which options the compiler gets, and what becomes of those that it refuses."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import pytest
from test_step import PLAIN, plan_of

from flaxcnn.engine import programs
from flaxcnn.engine.sharding import BatchSharding

GPU = dataclasses.replace(plan_of(PLAIN), sharding=BatchSharding(platform="gpu"))


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("exact", [False, True])
def test_only_a_gpu_has_options(platform, exact):
    plan = dataclasses.replace(
        plan_of(PLAIN), sharding=BatchSharding(platform=platform), exact=exact
    )
    assert programs.options(plan) == {}


def test_a_gpu_records_graphs_unless_told_not_to(monkeypatch):
    assert "WHILE" in programs.options(GPU)["xla_gpu_enable_command_buffer"]
    monkeypatch.setenv("FLAXCNN_GPU_GRAPHS", "0")
    assert programs.options(GPU) == {}


def test_several_gpus_exchange_while_they_compute():
    several = dataclasses.replace(GPU, sharding=BatchSharding(devices=8, platform="gpu"))
    found = programs.options(several)
    assert found["xla_gpu_enable_command_buffer"].endswith(",COLLECTIVES")
    assert found["xla_gpu_enable_latency_hiding_scheduler"] is True


def test_exact_mode_asks_for_deterministic_operations_by_itself():
    exact = dataclasses.replace(GPU, exact=True)
    assert programs.options(exact)["xla_gpu_deterministic_ops"] is True
    assert "xla_gpu_deterministic_ops" not in programs.options(GPU)


class Refusing:
    """A lowered program whose compiler takes some options only."""

    def __init__(self, takes=(), error="INVALID_ARGUMENT: No such option"):
        self.takes, self.error, self.tried = takes, error, []

    def compile(self, compiler_options=None):
        self.tried.append(compiler_options or {})
        if set(compiler_options or {}) - set(self.takes):
            raise jax.errors.JaxRuntimeError(self.error)
        return "program"


def test_options_that_the_compiler_refuses_are_left_out_and_told(caplog):
    exact = dataclasses.replace(GPU, exact=True)
    lowered = Refusing(takes=("xla_gpu_deterministic_ops",))
    with caplog.at_level(logging.WARNING):
        assert programs.compile_program(lowered, exact) == "program"
    assert lowered.tried[-1] == {"xla_gpu_deterministic_ops": True}
    assert "refuses xla_gpu_enable_command_buffer" in caplog.text


def test_exact_mode_does_not_go_on_without_its_promise():
    with pytest.raises(jax.errors.JaxRuntimeError):
        programs.compile_program(Refusing(), dataclasses.replace(GPU, exact=True))


def test_a_program_that_does_not_fit_is_not_compiled_twice():
    lowered = Refusing(error="RESOURCE_EXHAUSTED: out of memory")
    with pytest.raises(jax.errors.JaxRuntimeError):
        programs.compile_program(lowered, GPU)
    assert len(lowered.tried) == 1


def test_a_program_has_its_own_name_in_profiles():
    def train_epoch(plan, x):
        return jnp.sum(x)

    assert "train_epoch" in programs.jitted(GPU, train_epoch).lower(jnp.ones(3)).as_text()
