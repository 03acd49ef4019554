"""Augmentation: a function of (seed, epoch, row) alone; whole-pixel moves, mirrors, statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from flaxcnn.augment.chain import augment
from flaxcnn.data.batches import Batch
from flaxcnn.data.standardize import standardize
from flaxcnn.recipe.augment import Flip, Shift

ROWS = 400
IMAGES = np.random.default_rng(0).integers(0, 256, (ROWS, 10, 8, 2), np.uint8)
BOTH = (Shift(0.2, 0.25), Flip())  # up to 2 pixels of 10 rows and 2 of 8 columns
SHIFTED = st.sampled_from([(Shift(0.2, 0.25),), (Flip(),), BOTH])


@functools.partial(jax.jit, static_argnums=(4,))
def apply(images, seeds, epoch, rows, steps):
    batch = Batch(images, jnp.zeros_like(rows), rows, rows >= 0)
    return augment(steps, seeds, epoch, batch, jnp.zeros((1, 1, 1)))[0]


def augmented(rows, steps, seed=0, epoch=0):
    rows = np.asarray(rows)
    out = apply(
        IMAGES[rows], jnp.full(4, seed, jnp.uint32), jnp.int32(epoch), rows.astype(np.int32), steps
    )
    assert out.dtype == jnp.uint8
    return np.asarray(out)


def moves(image, out, most=2):
    """All (rows, columns) moves that make `out` of `image`, by scipy."""
    reach = range(-most, most + 1)
    return [
        (dy, dx)
        for dy in reach
        for dx in reach
        if (ndimage.shift(image, (dy, dx, 0), order=0, mode="nearest") == out).all()
    ]


@settings(max_examples=20)
@given(steps=SHIFTED, seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 99),
       picks=st.lists(st.integers(0, ROWS - 1), min_size=4, max_size=4))  # fmt: skip
def test_depends_on_seed_epoch_and_row_only(steps, seed, epoch, picks):
    """Not on the batch's size, its other rows, or the place in it."""
    together = augmented(picks, steps, seed, epoch)
    backwards = augmented([*picks[::-1], 1, 2, 3], steps, seed, epoch)
    np.testing.assert_array_equal(together, backwards[3::-1])


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}])
def test_seeds_and_epochs_differ(other):
    first, second = augmented(range(ROWS), BOTH), augmented(range(ROWS), BOTH, **other)
    same = (first == second).all((1, 2, 3)).mean()
    assert same < 0.1  # 50 variants of each image: 1 in 50 by chance


def test_shift_is_a_whole_pixel_move_with_repeated_edges():
    out = augmented(range(ROWS), (Shift(0.2, 0.25),))
    found = [moves(image, variant) for image, variant in zip(IMAGES, out, strict=True)]
    assert all(len(each) == 1 for each in found)
    drawn = np.array([each[0] for each in found])
    for axis in (0, 1):  # -2 .. 2, each 80 times of 400 give or take 8
        values, counts = np.unique(drawn[:, axis], return_counts=True)
        assert values.tolist() == [-2, -1, 0, 1, 2]
        assert counts.min() > 80 - 5 * 8
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.2  # rows and columns are drawn apart (sd 0.05)


def test_shift_of_one_axis_leaves_the_other_alone():
    out = augmented(range(60), (Shift(0.0, 0.25),))
    assert {m[0] for image, v in zip(IMAGES, out) for m in moves(image, v)} == {0}
    less_than_a_pixel = augmented(range(60), (Shift(0.09, 0.1),))
    np.testing.assert_array_equal(less_than_a_pixel, IMAGES[:60])


def test_flip_mirrors_half_of_the_images():
    out = augmented(range(ROWS), (Flip(),))
    mirrored = (out == IMAGES[:, :, ::-1]).all((1, 2, 3))
    kept = (out == IMAGES).all((1, 2, 3))
    assert (mirrored ^ kept).all()
    assert mirrored.mean() == pytest.approx(0.5, abs=0.1)  # sd 0.025


def test_steps_draw_apart_and_none_changes_nothing():
    np.testing.assert_array_equal(augmented(range(9), ()), IMAGES[:9])
    # Two flips with one draw would undo each other.
    twice = augmented(range(ROWS), (Flip(), Flip()))
    assert (twice == IMAGES[:, :, ::-1]).all((1, 2, 3)).mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 2), (10, 8, 2)])
def test_standardize_equals_numpy(shape):
    """One number, one a channel, one a pixel."""
    random = np.random.default_rng(1)
    mean = random.uniform(0, 255, shape).astype(np.float32)
    scale = random.uniform(1, 80, shape).astype(np.float32)
    out = standardize(jnp.asarray(IMAGES), jnp.asarray(mean), jnp.asarray(scale))
    assert out.dtype == jnp.float32
    expected = (IMAGES.astype(np.float64) - mean) / scale
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-5)  # two float32 roundings
