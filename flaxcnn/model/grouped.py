"""Convolutions with groups or dilation, in the form that each backend runs fast."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from flaxcnn.model.depthwise import depthwise2d
from flaxcnn.model.kernels import LAYOUT, conv2d, pads
from flaxcnn.model.layout import Pair, on_cpu
from flaxcnn.recipe.shapes import Padding

# Input channels of one convolution on CPU: groups narrower than that are done together, with zeros
# in the kernel between them, since XLA's convolutions of a few channels are slow.
TOGETHER = 32


def grouped2d(
    x: jax.Array, w: jax.Array, stride: Pair, padding: Padding, dilation: int = 1, groups: int = 1,
    platform: str | None = None,
) -> jax.Array:  # fmt: skip
    """x [B, H, W, I], w [kh, kw, I / groups, O] of one dtype -> [B, H', W', O].

    The first O / groups output channels see the first I / groups input channels, and so on. With
    dilation d a kernel looks at every d-th place.
    """
    if not on_cpu(platform):
        reach = [(k - 1) * dilation + 1 for k in w.shape[:2]]
        pad = pads((x.shape[1], x.shape[2]), (reach[0], reach[1]), stride, padding)
        return lax.conv_general_dilated(
            x, w, stride, pad, rhs_dilation=(dilation, dilation), dimension_numbers=LAYOUT,
            feature_group_count=groups,
        )  # fmt: skip
    inputs = w.shape[2]
    if groups > 1 and inputs == 1:
        own = w.reshape(*w.shape[:2], groups, -1)
        return depthwise2d(x, own, stride, padding, dilation, platform)
    w = _dilated(w, dilation)
    if groups == 1:
        return conv2d(x, w, stride, padding, platform)
    each = max(n for n in range(1, groups + 1)
               if groups % n == 0 and (n == 1 or n * inputs <= TOGETHER))  # fmt: skip
    parts = [
        conv2d(part, _together(kernel, each), stride, padding, platform)
        for part, kernel in zip(
            jnp.split(x, groups // each, axis=3), jnp.split(w, groups // each, axis=3), strict=True
        )
    ]
    return jnp.concatenate(parts, axis=3)


def _dilated(w: jax.Array, dilation: int) -> jax.Array:
    """The kernel with zeros between its rows and columns."""
    inner = [(0, 0, dilation - 1)] * 2 + [(0, 0, 0)] * 2
    return lax.pad(w, jnp.zeros((), w.dtype), inner) if dilation > 1 else w


def _together(w: jax.Array, groups: int) -> jax.Array:
    """A kernel [kh, kw, I, O] of `groups` groups as one of all their channels, zeros between."""
    if groups == 1:
        return w
    rows, columns, inputs, outputs = w.shape
    apart = w.reshape(rows, columns, inputs, groups, outputs // groups)
    same = jnp.eye(groups, dtype=w.dtype)  # group of the input channel, group of the output channel
    return jnp.einsum("hwigo,fg->hwfigo", apart, same).reshape(
        rows, columns, groups * inputs, outputs
    )
