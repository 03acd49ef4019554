"""Whether the back end that jax has computes right: known operations against float64 on the host.

Releases of jaxlib have returned wrong numbers without an error, on CPU and on GPU (the issues are
named in UPSTREAM). `flaxcnn doctor --numerics` runs in seconds on whatever is there; its verdict
is kept for this jaxlib, device and flags, and goes into the env.json of every run.

Each check compares what a compiled program returns with what it must return. Where that is exact
(orders, sums of small integers) nothing is allowed; elsewhere the error is taken relative to the
same operation on absolute values, for which rounding has bounds whatever the order of additions
(Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from flaxcnn import backend
from flaxcnn.hardware import software

SAID = 200  # characters of an error that are reported
CALLS = 30  # of one program; the races that are known show within a few
UNIT = 2.0**-24  # largest relative error of a rounding to float32
# Largest relative error of an operand of a product that is asked for with default precision: a
# CPU takes float32; NVIDIA's tensor cores take TensorFloat-32, 10 bits of fraction, and may cut
# rather than round; a TPU takes bfloat16, 7 bits, rounded once. Other platforms: float32.
OPERAND = {"gpu": 2.0**-10, "tpu": 2.0**-8}
# What jax_default_matmul_precision may say instead of the platform's default.
ASKED = {"highest": 0.0, "float32": 0.0, "high": 2.0**-10, "tensorfloat32": 2.0**-10,
         "bfloat16": 2.0**-8, "default": 2.0**-8, "fastest": 2.0**-8}  # fmt: skip
# A sum of n terms is within n roundings in any order: sequential is the worst there is.
# Statistics are sums of 16,384 terms; every compiler adds them in blocks, so that 256 roundings
# are plenty, and the bound for a sequential sum would let an error of a thousandth pass.
REDUCTION = 256 * UNIT
# cuDNN and XLA may multiply fewer times (Winograd), which costs up to this many roundings more:
# Lavin and Gray (arXiv:1509.09308) have errors of F(4x4, 3x3) a few times those of direct sums.
FAST_ALGORITHM = 64 * UNIT
UPSTREAM = {
    "sums": "jax#39103, tensorflow#126812",
    "same answer every call": "jax#39741",
    "reduce-scatter": "jax#40830",
    "reduce-scatter, 2 processes": "jax#40830",
    "product": "jax#40633, jax#39486",
    "product, highest precision": "jax#40633, jax#39486",
    "product, bfloat16": "jax#39486",
}
# XLA's GPU kernels may add in any order unless they are told not to, as determinism=exact does.
DETERMINISTIC = {"gpu": {"xla_gpu_deterministic_ops": True}}
Array = Any


@dataclass(frozen=True)
class Finding:
    """One check: how wrong the worst element was, and how wrong it may be."""

    name: str
    verdict: Literal["ok", "failed", "not run"]
    error: float | None = None  # None: not run, or not a number
    allowed: float | None = None
    upstream: str = ""  # issues in which this went wrong
    reason: str = ""  # of what was not run, or failed altogether

    def line(self) -> str:
        """For a person: the verdict with the figures that it rests on."""
        if self.reason:
            return self.reason
        error = "not a number" if self.error is None else f"{self.error:.1e}"
        known = f" (as in {self.upstream})" if self.upstream else ""
        return f"worst relative error {error}, allowed {self.allowed:.1e}{known}"


def checks() -> list[Finding]:
    """Every check of one device, in a few seconds.

    Returns:
        A finding a check, the same names in the same order everywhere; where the back end refuses
        to compute, one in place of those that are left of the group.
    """
    groups = (_sums, _same_answer, _products, _convolutions, _statistics, _orders)
    return [one for group in groups for one in guarded(group)]


def guarded(group: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Findings of a group; an error of the back end is one of them and stops no other group."""
    try:
        yield from group()
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).split())[:SAID]
        yield Finding(group.__name__.strip("_"), "failed", reason=reason)


def verdict(findings: list[Finding]) -> dict[str, Any]:
    """Findings as they are kept: names alone, and what they hold for."""
    verdict: dict[str, Any] = {
        "jaxlib": jax.lib.__version__,
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "passed": [], "failed": [], "not run": [],
    }  # fmt: skip
    for one in findings:
        verdict["passed" if one.verdict == "ok" else one.verdict].append(one.name)
    return verdict


def keep(verdict: dict[str, Any]) -> None:
    """Remember the verdict for this jaxlib, device and flags, where there is somewhere to."""
    path = _file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(verdict, indent=1) + "\n")
    except OSError:
        return  # a home that cannot be written: it was reported, and is not kept


def kept() -> dict[str, Any] | None:
    """The verdict that was kept, or None where the suite was not run on this."""
    try:
        verdict = json.loads(_file().read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(verdict, dict) and {"passed", "failed", "not run"} <= set(verdict)
    return verdict if whole else None


def _file() -> Path:
    more = (jax.default_backend(), jax.devices()[0].device_kind, backend.processor(),
            str(_asked()), json.dumps(software(), sort_keys=True))  # fmt: skip
    return backend.verdict_file("numerics", *more)


# -- one finding ---------------------------------------------------------------------------------


def compared(
    name: str, got: Array, wanted: Array, scale: Array = 1.0, allowed: float = 0.0
) -> Finding:
    """The worst error of an element in units of `scale`, against what is allowed."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    if got.shape != wanted.shape:
        return judged(name, float("inf"), allowed)
    same = got == wanted  # also infinities
    with np.errstate(invalid="ignore"):
        errors = np.where(same, 0.0, np.abs(got - wanted)) / scale
    return judged(name, float(np.max(errors)), allowed)


def judged(name: str, error: float, allowed: float = 0.0) -> Finding:
    """ok up to what is allowed; what is not a number is never ok."""
    ok = error <= allowed
    measured = error if np.isfinite(error) else None
    return Finding(name, "ok" if ok else "failed", measured, allowed, UPSTREAM.get(name, ""))


def on_device(function: Callable[..., Array], *arguments: Array) -> Array:
    """What the compiled program returns, on the host."""
    return jax.device_get(jax.jit(function)(*arguments))


def _asked() -> str | None:
    precision: str | None = getattr(jax.config, "jax_default_matmul_precision", None)
    return precision


def promised() -> float:
    """Largest relative error of an operand of a product with the precision that is set."""
    default = OPERAND.get(jax.default_backend(), 0.0)
    return default if (asked := _asked()) is None else min(ASKED.get(asked, default), default)


def product_error(terms: int, operand: float) -> float:
    """Allowed for a sum of `terms` products, over the sum of their absolute values."""
    return 2 * operand + operand**2 + terms * UNIT


# -- the checks ----------------------------------------------------------------------------------


def _sums() -> Iterator[Finding]:
    """The race that `backend.require_sound` refuses, here on every back end."""
    yield judged("sums", 0.0 if backend.sums_are_right() else 1.0)


def _same_answer() -> Iterator[Finding]:
    """One program, called many times on the same arrays."""
    draws = np.random.default_rng(1)
    image = draws.standard_normal((32, 28, 28, 1), np.float32)
    kernel = draws.standard_normal((3, 3, 1, 16), np.float32)
    weights = draws.standard_normal((26 * 26 * 16, 64), np.float32)

    def loss(arrays: tuple[jax.Array, jax.Array], image: jax.Array) -> jax.Array:
        kernel, weights = arrays
        hidden = jax.nn.relu(_convolve(image, kernel)).reshape(len(image), -1) @ weights
        return jax.nn.logsumexp(hidden, axis=1).mean()

    options: Any = DETERMINISTIC.get(jax.default_backend())
    program = jax.jit(jax.value_and_grad(loss), compiler_options=options)
    first, *others = (
        jax.tree.leaves(jax.device_get(program((kernel, weights), image))) for _ in range(CALLS)
    )
    errors = [
        np.max(np.abs(now - then)) / np.max(np.abs(then))
        for other in others
        for now, then in zip(other, first, strict=True)
    ]
    yield judged("same answer every call", float(np.max(errors)))


def _products() -> Iterator[Finding]:
    draws, terms = np.random.default_rng(2), 512
    a, b = (draws.standard_normal(shape, np.float32) for shape in ((256, terms), (terms, 128)))
    wanted, scale = _exact(np.matmul, a, b), _exact(np.matmul, abs(a), abs(b))
    yield compared("product", on_device(jnp.matmul, a, b), wanted, scale,
                   product_error(terms, promised()))  # fmt: skip
    highest = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    yield compared("product, highest precision", on_device(highest, a, b), wanted, scale,
                   product_error(terms, 0.0))  # fmt: skip
    a, b = (np.asarray(each, jnp.bfloat16) for each in (a, b))
    wanted, scale = _exact(np.matmul, a, b), _exact(np.matmul, abs(a), abs(b))
    summed = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
    yield compared("product, bfloat16", on_device(summed, a, b), wanted, scale,
                   product_error(terms, 0.0))  # fmt: skip


def _exact(function: Callable[..., Array], *arguments: Array) -> Array:
    return function(*(np.asarray(each, np.float64) for each in arguments))


def _convolve(image: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        image, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _windows(image: Array, side: int) -> Array:
    """[N, H, W, C] -> [N, H - side + 1, W - side + 1, C, side, side]."""
    return sliding_window_view(image, (side, side), axis=(1, 2))


def _forward(image: Array, kernel: Array) -> Array:
    return np.einsum("nhwcij,ijco->nhwo", _windows(image, len(kernel)), kernel, optimize=True)


def _to_image(change: Array, kernel: Array) -> Array:
    edge = len(kernel) - 1
    padded = np.pad(change, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    return _forward(padded, kernel[::-1, ::-1].transpose(0, 1, 3, 2))


def _to_kernel(image: Array, change: Array) -> Array:
    side = image.shape[1] - change.shape[1] + 1
    return np.einsum("nhwcij,nhwo->ijco", _windows(image, side), change, optimize=True)


def _convolutions() -> Iterator[Finding]:
    """A convolution and its two gradients, as JAX derives them."""
    draws = np.random.default_rng(3)
    image = draws.standard_normal((8, 16, 16, 8), np.float32)
    kernel = draws.standard_normal((3, 3, 8, 16), np.float32)
    change = draws.standard_normal((8, 14, 14, 16), np.float32)

    def gradient(of: int) -> Callable[..., Array]:
        return lambda image, kernel, change: jax.vjp(_convolve, image, kernel)[1](change)[of]

    cases = (
        ("convolution", _convolve, _forward, (image, kernel), 9 * 8),
        ("convolution, input gradient", gradient(0), _to_image, (change, kernel), 9 * 16),
        ("convolution, weight gradient", gradient(1), _to_kernel, (image, change), 8 * 14 * 14),
    )
    for name, program, reference, operands, terms in cases:
        given = (image, kernel) if program is _convolve else (image, kernel, change)
        # Fast algorithms mix neighbours: the largest of all is the measure.
        scale = np.max(_exact(reference, *map(np.abs, operands)))
        yield compared(name, on_device(program, *given), _exact(reference, *operands), scale,
                       product_error(terms, promised()) + FAST_ALGORITHM)  # fmt: skip


def _statistics() -> Iterator[Finding]:
    """Mean and variance a channel of what is not centred, which cancels in a careless variance."""
    x = np.random.default_rng(4).normal(5.0, 1.0, (64, 16, 16, 8)).astype(np.float32)
    axes = (0, 1, 2)

    def both(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean = x.mean(axes, keepdims=True)
        return mean.ravel(), jnp.square(x - mean).mean(axes)

    mean, variance = on_device(both, x)
    exact = x.astype(np.float64)
    yield compared("batch mean", mean, exact.mean(axes), exact.mean(axes), REDUCTION)
    yield compared("batch variance", variance, exact.var(axes), exact.var(axes), REDUCTION)


def _orders() -> Iterator[Finding]:
    """What moves values and adds none that round: exact everywhere."""
    draws = np.random.default_rng(5)
    values = draws.permutation(4 * 9 * 9 * 8).reshape(4, 9, 9, 8).astype(np.float32)
    change = draws.integers(-8, 8, (4, 4, 4, 8)).astype(np.float32)

    def pooled(x: jax.Array) -> jax.Array:
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")

    gradient = on_device(lambda x, change: jax.vjp(pooled, x)[1](change)[0], values, change)
    yield compared("max-pool gradient", gradient, _pool_gradient(values, change))
    keys = draws.integers(-50, 50, 5000).astype(np.float32)
    keys[:3] = np.inf, -np.inf, np.float32(3e38)
    yield compared("sort", on_device(jnp.sort, keys), np.sort(keys))
    order = on_device(functools.partial(jnp.argsort, stable=True), keys)
    yield compared("stable order", order, np.argsort(keys, kind="stable"))
    index, add = draws.integers(0, 40, 5000), draws.integers(-8, 8, (5000, 4)).astype(np.float32)
    wanted = np.zeros((40, 4))
    np.add.at(wanted, index, add)
    added = on_device(lambda i, v: jnp.zeros((40, 4), jnp.float32).at[i].add(v), index, add)
    yield compared("scatter-add", added, wanted)
    ties = draws.integers(0, 3, (500, 10)).astype(np.float32)
    first = on_device(functools.partial(jnp.argmax, axis=1), ties)
    yield compared("first of equals", first, ties.argmax(1))


def _pool_gradient(values: Array, change: Array) -> Array:
    """Each window's change goes to its largest value; windows of 3 overlap at stride 2."""
    gradient = np.zeros(values.shape)
    windows = _windows(values, 3)[:, ::2, ::2].reshape(*change.shape, 9)
    winner = windows.argmax(-1)
    n, h, w, c = np.indices(change.shape)
    np.add.at(gradient, (n, 2 * h + winner // 3, 2 * w + winner % 3, c), change)
    return gradient
