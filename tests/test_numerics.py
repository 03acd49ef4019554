"""The numerics suite passes here, and each of its checks can fail."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxcnn import backend, collectives, doctor, hardware, numerics
from flaxcnn.records.environment import NOT_RUN, environment

ORIGINAL = numerics.on_device
OF_ONE_CALL = [  # in the order of `checks`; the first two call their programs themselves
    "product", "product, highest precision", "product, bfloat16", "convolution",
    "convolution, input gradient", "convolution, weight gradient", "batch mean", "batch variance",
    "max-pool gradient", "sort", "stable order", "scatter-add", "first of equals",
]  # fmt: skip
NAMES = ["sums", "same answer every call", *OF_ONE_CALL]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXCNN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def failed(findings):
    return [one.name for one in findings if one.verdict == "failed"]


def test_this_machine_computes_right():
    found = numerics.checks()
    assert [one.name for one in found] == NAMES
    assert failed(found) == []
    assert all(one.error <= one.allowed for one in found)
    assert {"sort", "sums"} <= {one.name for one in found if one.allowed == 0}


@pytest.mark.parametrize("wrong", [math.nan, math.inf, "a thousandth"])
def test_one_wrong_element_of_a_result_is_noticed(monkeypatch, wrong):
    """Every check fails when the largest element of what the device returned is a little wrong."""

    def off(function, *arguments):
        leaves, tree = jax.tree.flatten(ORIGINAL(function, *arguments))
        leaves = [np.array(leaf, np.float64) for leaf in leaves]
        for leaf in leaves:
            place = np.argmax(np.where(np.isfinite(leaf), np.abs(leaf), -1))
            place = np.unravel_index(place, leaf.shape)
            leaf[place] = wrong if isinstance(wrong, float) else leaf[place] * 1.001 + 1e-3
        return tree.unflatten(leaves)

    monkeypatch.setattr(numerics, "on_device", off)
    found = numerics.checks()
    assert failed(found) == OF_ONE_CALL
    if wrong != "a thousandth":
        assert {one.error for one in found if one.verdict == "failed"} == {None}
        json.dumps([vars(one) for one in found], allow_nan=False)


def test_wrong_sums_are_noticed(monkeypatch):
    monkeypatch.setattr(backend, "sums_are_right", lambda: False)
    assert failed(numerics.checks()) == ["sums"]


def test_another_answer_in_one_call_of_many_is_noticed(monkeypatch):
    jit, calls = jax.jit, []

    def one_in_many(function, **options):
        program = jit(function, **options)

        def run(*arguments):
            calls.append(1)
            value, grads = program(*arguments)
            return value, jax.tree.map(lambda g: g * (1 + 1e-6 * (len(calls) == 17)), grads)

        return run

    monkeypatch.setattr(jax, "jit", one_in_many)
    (found,) = numerics._same_answer()
    assert (found.name, found.verdict, found.upstream) == (
        "same answer every call", "failed", "jax#39741",
    )  # fmt: skip
    assert len(calls) == numerics.CALLS
    assert 0 < found.error < 1e-5


@pytest.mark.parametrize(
    ("module", "name", "broken", "failing"),
    [
        (jnp, "sort", lambda x: x, "sort"),
        (jnp, "argsort", lambda x, stable: jnp.flip(jnp.lexsort([x])), "stable order"),
        (jnp, "argmax", lambda x, axis: 9 - jnp.flip(x, axis).argmax(axis), "first of equals"),
        (jnp, "square", lambda x: x * x * (1 + 1e-4), "batch variance"),
    ],
)
def test_an_operation_that_is_broken_is_named(monkeypatch, module, name, broken, failing):
    monkeypatch.setattr(module, name, broken)
    assert failed(numerics.checks()) == [failing]


def test_a_back_end_that_refuses_stops_no_other_check(monkeypatch):
    def refuse(x):
        raise jax.errors.JaxRuntimeError("INTERNAL: no such\nkernel")

    monkeypatch.setattr(jnp, "sort", refuse)
    found = numerics.checks()
    assert [one.name for one in found] == [*NAMES[: NAMES.index("sort")], "orders"]
    assert (found[-1].verdict, found[-1].line()) == ("failed", "INTERNAL: no such kernel")
    monkeypatch.setattr(jax.lax, "psum", lambda x, axis: refuse(x))
    monkeypatch.setattr(collectives, "across", lambda: found[0])
    assert failed(collectives.checks()) == ["within"]


def test_products_in_fewer_digits_fail_where_float32_is_promised(monkeypatch):
    """TensorFloat-32 on a CPU, or under `highest`, is a finding; on a GPU by default it is none."""
    product = jnp.matmul

    def rounded(a, b, **options):
        if a.dtype != jnp.float32:
            return product(a, b, **options)
        a, b = (jax.lax.reduce_precision(each, 8, 10) for each in (a, b))
        return product(a, b, **options)

    monkeypatch.setattr(jnp, "matmul", rounded)
    assert failed(numerics.checks()) == ["product", "product, highest precision"]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert failed(numerics._products()) == ["product, highest precision"]


@pytest.mark.parametrize(
    ("platform", "asked", "operand"),
    [("cpu", None, 0), ("cpu", "bfloat16", 0), ("gpu", None, 2**-10), ("gpu", "highest", 0),
     ("gpu", "float32", 0), ("tpu", None, 2**-8), ("tpu", "float32", 0), ("gpu", "default", 2**-10),
     ("tpu", "BF16_BF16_F32", 2**-8)],
)  # fmt: skip
def test_what_a_back_end_promises(monkeypatch, platform, asked, operand):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(numerics, "_asked", lambda: asked)
    assert numerics.promised() == operand


def test_what_is_not_a_number_or_of_another_shape_is_never_ok():
    assert numerics.judged("x", math.nan, 1.0).verdict == "failed"
    assert numerics.compared("x", [1.0, math.nan], [1.0, 2.0], allowed=9.0).verdict == "failed"
    assert numerics.compared("x", [1.0], [1.0, 2.0], allowed=9.0).verdict == "failed"
    assert numerics.compared("x", [math.inf, 1.0], [math.inf, 1.0]).verdict == "ok"


# -- exchanges -----------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(collectives, "EXCHANGED", 100)


def within():
    return list(collectives._within())


def test_exchanges_of_this_process_are_right(small):
    assert jax.local_device_count() > 1
    assert [(one.name, one.verdict) for one in within()] == [
        ("all-reduce", "ok"), ("reduce-scatter", "ok"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("operation", "failing"), [("psum", "all-reduce"), ("psum_scatter", "reduce-scatter")]
)
def test_an_exchange_that_is_wrong_on_one_device_is_named(small, monkeypatch, operation, failing):
    original = getattr(jax.lax, operation)

    def wrong(x, axis, **options):
        first = jax.lax.axis_index(axis) == 0
        return original(x, axis, **options) + jnp.where(first, 1.0, 0.0)

    monkeypatch.setattr(jax.lax, operation, wrong)
    assert failed(within()) == [failing]


def test_one_device_exchanges_with_none(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    assert {(one.verdict, one.reason) for one in within()} == {("not run", "there is one device")}


def test_two_processes_agree_over_gloo(monkeypatch):
    monkeypatch.setattr(collectives, "SECONDS", 240)  # tests share their cores
    found = collectives.across()
    assert (found.verdict, found.error, found.allowed) == ("ok", 0.0, 0.0), found.reason


@pytest.mark.parametrize(
    ("child", "verdict", "said"),
    [
        ("print('[Gloo] Rank 0 is connected'); print(0.0)", "ok", "allowed 0.0e+00"),
        ("print(3.0)", "failed", "worst relative error 3.0e+00, allowed 0.0e+00 (as in jax#40830)"),
        ("import os; os.abort()", "failed", "not a number"),
        ("raise SystemExit(1)", "not run", "2 processes could not be joined on this machine"),
        ("import time; time.sleep(60)", "not run", "2 processes did not end within 1 s"),
    ],
)  # fmt: skip
def test_what_two_processes_say(monkeypatch, tmp_path, child, verdict, said):
    (tmp_path / "child").write_text(f"#!/usr/bin/env python3\n{child}\n")
    (tmp_path / "child").chmod(0o700)
    monkeypatch.setattr(collectives.sys, "executable", str(tmp_path / "child"))
    monkeypatch.setattr(collectives, "SECONDS", 1 if "sleep" in child else 30)
    found = collectives.across()
    assert found.verdict == verdict
    assert said in found.line()


@pytest.mark.parametrize(
    ("change", "reason"),
    [((jax, "default_backend", lambda: "tpu"), "on CPU"), ((backend, "cores", lambda: 1), "cores")],
)
def test_two_processes_are_not_always_tried(monkeypatch, change, reason):
    monkeypatch.setattr(*change)
    monkeypatch.setattr(collectives.subprocess, "Popen", None)
    found = collectives.across()
    assert (found.name, found.verdict) == (collectives.ACROSS, "not run")
    assert reason in found.reason


# -- the verdict ---------------------------------------------------------------------------------

FINDINGS = [
    numerics.judged("sort", 0.0), numerics.judged("product", 1.0),
    numerics.Finding("all-reduce", "not run", reason="there is one device"),
]  # fmt: skip


def test_the_verdict_is_kept_and_recorded():
    assert environment()["numerics"] == NOT_RUN
    numerics.keep(numerics.verdict(FINDINGS))
    assert environment()["numerics"] == {
        "jaxlib": jax.lib.__version__, "backend": "cpu", "device": jax.devices()[0].device_kind,
        "passed": ["sort"], "failed": ["product"], "not run": ["all-reduce"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(jax.lib, "__version__", "0.11.2"),
        lambda patch: patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true"),
        lambda patch: patch.setattr(jax, "default_backend", lambda: "gpu"),
        lambda patch: patch.setattr(numerics, "software", lambda: {"nvidia-cudnn-cu13": "9.28"}),
        lambda patch: patch.setattr(numerics, "_asked", lambda: "highest"),
    ],
    ids=["jaxlib", "flags", "backend", "cudnn", "precision"],
)
def test_it_is_that_of_one_jaxlib_device_and_flags(monkeypatch, change):
    numerics.keep(numerics.verdict(FINDINGS))
    assert numerics.kept() is not None
    change(monkeypatch)
    assert numerics.kept() is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"passed": []}'])
def test_a_damaged_verdict_is_none(cache, text):
    numerics.keep(numerics.verdict(FINDINGS))
    (file,) = (cache / "numerics").iterdir()
    file.write_text(text)
    assert numerics.kept() is None


def test_nowhere_to_keep_it_is_no_error(cache):
    cache.write_text("a file in the way")
    numerics.keep(numerics.verdict(FINDINGS))
    assert numerics.kept() is None


def test_the_suite_is_both_and_is_kept(monkeypatch):
    monkeypatch.setattr(numerics, "checks", lambda: FINDINGS[:2])
    monkeypatch.setattr(collectives, "checks", lambda: FINDINGS[2:])
    assert doctor.suite() == FINDINGS
    assert numerics.kept()["failed"] == ["product"]
    assert hardware.software() == environment().get("accelerator", {})
