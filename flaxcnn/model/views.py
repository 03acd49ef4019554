"""Logits of an image seen in several ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from flaxcnn.recipe.views import Views

Forward = Callable[[jax.Array], jax.Array]  # images [B, H, W, C] float32 -> logits [B, K] float32
PARTS = 8  # of a batch: the fewest rows that are seen in several ways together are one of them


def logits_of(forward: Forward, image: jax.Array, views: Views | None) -> jax.Array:
    """Logits [B, K] of images [B, H, W, C]: of one view, or the mean over `views`.

    Where only unsure rows have several views, the others cost nothing: unsure rows are gathered,
    and looked at a part of a batch at a time. A share of the rows is one of these B.
    """
    if views is None:
        return forward(image)
    if views.unsure == views.share == 1.0:
        return _mean(forward, image, views)
    once = forward(image)
    if views.share < 1.0:
        rows = least_sure(once, views.count(len(image)))
        return once.at[rows].set(_mean(forward, image[rows], views))
    unsure = is_unsure(once, views)
    order = jnp.argsort(~unsure, stable=True)  # unsure rows first
    size = -(-len(image) // PARTS)

    def look_again(part: jax.Array, logits: jax.Array) -> jax.Array:
        rows = jax.lax.dynamic_slice_in_dim(order, part * size, size)
        seen = _mean(forward, image[rows], views)
        return logits.at[rows].set(jnp.where(unsure[rows][:, None], seen, logits[rows]))

    parts = (unsure.sum(dtype=jnp.int32) + size - 1) // size
    return jax.lax.fori_loop(0, parts, look_again, once)


def logits_of_all(forward: Forward, image: jax.Array, views: Views | None) -> jax.Array:
    """The same for a batch of any size, as an exported program needs: all views of all rows."""
    if views is None or views.unsure == views.share == 1.0:
        return logits_of(forward, image, views)
    once = forward(image)
    unsure = is_unsure(once, views)
    if views.share < 1.0:
        rank = jnp.argsort(jnp.argsort(surety(once), stable=True))
        count = jnp.floor(views.share * jnp.ones(len(image), jnp.float32).sum() + 0.5)
        unsure = rank < jnp.maximum(count.astype(rank.dtype), 1)
    return jnp.where(unsure[:, None], _mean(forward, image, views), once)


def is_unsure(logits: jax.Array, views: Views) -> jax.Array:
    """Which rows [B] bool have several views, by the logits [B, K] of one."""
    return surety(logits) < views.unsure


def surety(logits: jax.Array) -> jax.Array:
    """The largest probability [B] of each row."""
    return jax.nn.softmax(logits).max(axis=-1)


def least_sure(logits: jax.Array, count: int) -> jax.Array:
    """Which `count` rows [count] have the least of it, by the logits [B, K] of one view."""
    return jnp.argsort(surety(logits), stable=True)[:count]


def _mean(forward: Forward, image: jax.Array, views: Views) -> jax.Array:
    logits = [weight * forward(view) for view, weight in _views(image, views)]
    return sum(logits[1:], start=logits[0])


def _views(image: jax.Array, views: Views) -> Iterator[tuple[jax.Array, float]]:
    """Each view and what it counts for."""
    seen = [(image, 1.0)]
    if by := views.shift:
        wide = jnp.pad(image, ((0, 0), (by, by), (by, by), (0, 0)), mode="reflect")
        _, height, width, _ = image.shape
        moved = [wide[:, k : k + height, k : k + width] for k in (2 * by, 0)]
        seen = [(image, 0.5), (moved[0], 0.25), (moved[1], 0.25)]
    for turned, use in ((lambda x: x[:, :, ::-1], views.flip),
                        (lambda x: x.swapaxes(1, 2), views.transpose)):  # fmt: skip
        if use:
            seen = [(form(x), w / 2) for x, w in seen for form in (lambda x: x, turned)]
    yield from seen
