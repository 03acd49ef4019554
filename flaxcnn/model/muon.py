"""Muon: the momentum of each kernel, made orthogonal.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon). A convolution kernel [H, W, I, O] is
the matrix [H * W * I, O]. Its momentum G = U S V^T becomes about U V^T by Newton-Schulz iterations,
products of matrices alone. Kernels of one shape are iterated together, which is fewer launches. On
accelerators the products are as exact as by default; the authors use bfloat16.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flaxcnn.errors import ConfigError
from flaxcnn.model.protocol import fits, leaf_name, matches, product
from flaxcnn.recipe import optimizers as spec

Params = Any  # a pytree of float32 arrays
Scalar = jax.Array  # [] float32
# Of X <- a X + (b A + c A^2) X with A = X X^T, which has the steepest slope at 0.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NEAR_ZERO = 1e-7  # added to the norm of the momentum


class MuonState(NamedTuple):
    """Momentum of the kernels by name, and the state of the optimizer of all other weights."""

    momentum: dict[str, jax.Array]
    other: Any


def muon(
    o: spec.Muon, rate: Scalar, numbers: dict[str, Scalar], other: optax.GradientTransformation,
    no_decay: tuple[str, ...] = (), decays: dict[str, Scalar] | None = None,
) -> optax.GradientTransformation:  # fmt: skip
    """m <- momentum * m + g;  change = -rate * scale * orthogonal(g + momentum * m).

    Args:
        o: the specification.
        rate: learning rate of the kernels.
        numbers: the traced ones, "momentum" and "weight_decay".
        other: transforms the gradients of all other weights, a tree of which is {name: array}.
        no_decay: patterns of weights that do not decay.
        decays: factors of the decay by patterns.
    """
    momentum = numbers["momentum"]

    def init(params: Params) -> MuonState:
        kernels, others = _parted(o, params)
        if not kernels:
            raise ConfigError(
                "optimizer: muon finds no convolution kernel; name weights in optimizer.weights"
            )
        for name, kernel in kernels.items():
            if kernel.ndim < 2:
                raise ConfigError(f"optimizer.weights: {name} is a vector; muon needs a matrix")
        return MuonState(jax.tree.map(jnp.zeros_like, kernels), other.init(others))

    def update(
        grads: Params, state: MuonState, params: Params | None = None
    ) -> tuple[Params, MuonState]:
        kernels, others = _parted(o, params)
        own, rest = _parted(o, grads)
        kept = jax.tree.map(lambda m, g: momentum * m + g, state.momentum, own)
        ahead = jax.tree.map(lambda m, g: g + momentum * m, kept, own) if o.nesterov else kept
        directions = orthogonal(ahead, o.ns_steps)
        changes = {
            name: _change(o, rate, direction, kernels[name])
            for name, direction in directions.items()
        }
        if o.weight_decay:
            decay = rate * numbers["weight_decay"]
            for name, kernel in kernels.items():
                if not matches(no_decay, name):
                    factor = product(decays or {}, name)
                    own_decay = decay if factor is None else decay * factor
                    changes[name] = changes[name] - own_decay * kernel
        rest, state_of_rest = other.update(rest, state.other, others)
        changes |= rest
        whole = jax.tree_util.tree_map_with_path(lambda path, _: changes[leaf_name(path)], grads)
        return whole, MuonState(kept, state_of_rest)

    return optax.GradientTransformation(init, update)


def orthogonal(kernels: dict[str, jax.Array], steps: int) -> dict[str, jax.Array]:
    """Each kernel [..., O] as the nearly orthogonal matrix [rest, O] of its directions."""
    by_shape: dict[tuple[int, int], list[str]] = {}
    for name, kernel in kernels.items():
        by_shape.setdefault((kernel.size // kernel.shape[-1], kernel.shape[-1]), []).append(name)
    found: dict[str, jax.Array] = {}
    for shape, names in by_shape.items():
        stack = _newton_schulz(jnp.stack([kernels[n].reshape(shape) for n in names]), steps)
        found |= {n: stack[k].reshape(kernels[n].shape) for k, n in enumerate(names)}
    return found


def _newton_schulz(x: jax.Array, steps: int) -> jax.Array:
    """[N, A, B] float32 -> the same with singular values of about 1."""
    tall = x.shape[1] > x.shape[2]
    x = x.swapaxes(1, 2) if tall else x
    x = x / (jnp.sqrt(jnp.sum(jnp.square(x), (1, 2), keepdims=True)) + NEAR_ZERO)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.swapaxes(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.swapaxes(1, 2) if tall else x


def _change(o: spec.Muon, rate: Scalar, direction: jax.Array, kernel: jax.Array) -> jax.Array:
    outputs = kernel.shape[-1]
    if o.normalize:  # the kernel to the norm sqrt(O) first, as airbench does
        norm = jnp.sqrt(jnp.sum(jnp.square(kernel)))
        return (outputs**0.5 / norm - 1.0) * kernel - rate * direction
    return -rate * max(1.0, outputs * outputs / kernel.size) ** 0.5 * direction


def _parted(o: spec.Muon, tree: Params) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """(kernels, other weights) by name."""
    kernels: dict[str, jax.Array] = {}
    others: dict[str, jax.Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        own = fits(o.weights, path) if o.weights else leaf.ndim == 4
        (kernels if own else others)[leaf_name(path)] = leaf
    return kernels, others
