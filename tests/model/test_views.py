"""Test-time augmentation against NumPy: the views, their weights, and which rows have them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from flaxcnn.errors import ConfigError
from flaxcnn.model.views import logits_of, logits_of_all
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten
from flaxcnn.recipe.views import Views

SIDE, ROWS, CLASSES = 5, 21, 3
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.normal(size=(ROWS, SIDE, SIDE, 2)).astype(np.float32)
WEIGHT = RANDOM.normal(size=(SIDE * SIDE * 2, CLASSES)).astype(np.float32) / 4
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # float32 sums of 50 products


def forward(image):
    """Of each pixel in its place, so that every view differs."""
    return jnp.tanh(image.reshape(len(image), -1)) @ WEIGHT


def by_hand(image, views):
    """Logits of each view by NumPy, in float64."""
    seen = [(1.0, image)]
    if by := views.shift:
        wide = np.pad(image, ((0, 0), (by, by), (by, by), (0, 0)), mode="reflect")
        # up and left: what was at (by, by) is at (0, 0)
        seen = [(0.5, image), (0.25, wide[:, 2 * by :, 2 * by :]),
                (0.25, wide[:, : -2 * by, : -2 * by])]  # fmt: skip
    if views.flip:
        seen = [(w / 2, each) for w, x in seen for each in (x, np.flip(x, 2))]
    if views.transpose:
        seen = [(w / 2, each) for w, x in seen for each in (x, x.transpose(0, 2, 1, 3))]
    flat = lambda x: np.tanh(x.reshape(len(x), -1).astype(np.float64)) @ WEIGHT  # noqa: E731
    return sum(weight * flat(view) for weight, view in seen)


EACH = [Views(), Views(shift=1), Views(False, 2), Views(False, 0, True), Views(True, 1, True)]


@pytest.mark.parametrize("views", EACH, ids=str)
def test_logits_are_the_weighted_mean_over_views(views):
    found = jax.jit(lambda x: logits_of(forward, x, views))(IMAGE)
    np.testing.assert_allclose(found, by_hand(IMAGE, views), **CLOSE)
    assert np.abs(found - forward(IMAGE)).max() > 0.1


@pytest.mark.parametrize("limit", [0.35, 0.5, 0.7, 0.999])
@pytest.mark.parametrize("rows", [ROWS, 8, 1])
def test_only_unsure_rows_have_several(limit, rows):
    """None, some and all of a batch, whatever its size; each row by itself."""
    views, image = Views(True, 1, unsure=limit), IMAGE[:rows]
    once = np.asarray(forward(image), np.float64)
    unsure = softmax(once, axis=1).max(axis=1) < limit
    expected = np.where(unsure[:, None], by_hand(image, views), once)
    for function in (logits_of, logits_of_all):
        found = jax.jit(lambda x, function=function: function(forward, x, views))(image)
        np.testing.assert_allclose(found, expected, **CLOSE)
    if rows == ROWS:
        assert unsure.any() or limit == 0.35


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.999])
@pytest.mark.parametrize("rows", [ROWS, 8, 1])
def test_only_a_share_of_the_rows_has_several(share, rows):
    views, image = Views(True, 1, share=share), IMAGE[:rows]
    once = np.asarray(forward(image), np.float64)
    order = np.argsort(softmax(once, axis=1).max(axis=1), kind="stable")
    expected = once.copy()
    least = order[: views.count(rows)]
    expected[least] = by_hand(image, views)[least]
    for function in (logits_of, logits_of_all):
        found = jax.jit(lambda x, function=function: function(forward, x, views))(image)
        np.testing.assert_allclose(found, expected, **CLOSE)
    assert 0 < len(least) < rows or share in (0.01, 0.999) or rows == 1


def test_side_by_side_each_run_has_unsure_rows_of_its_own():
    views = Views(shift=1, unsure=0.5)
    image = jnp.asarray(IMAGE)
    of = lambda scale: logits_of(lambda x: scale * forward(x), image, views)  # noqa: E731
    together = jax.jit(jax.vmap(of))(jnp.array([0.2, 1.0, 5.0]))
    for k, scale in enumerate((0.2, 1.0, 5.0)):
        np.testing.assert_allclose(together[k], jax.jit(of)(jnp.float32(scale)), **CLOSE)


@pytest.mark.parametrize(
    ("tta", "shape", "message"),
    [
        ({"transpose": True}, (8, 6, 1), r"needs square images \(these are 8x6\)"),
        ({"shift": 8}, (8, 8, 1), r"tta.shift must be less than 8, the side of an image \(got 8\)"),
        ({"flip": False}, (8, 8, 1), "tta has one view alone"),
        ({"unsure": 0}, (8, 8, 1), "tta.unsure must be above 0"),
        ({"share": 1.5}, (8, 8, 1), "tta.share must be above 0 and at most 1 .*got 1.5"),
        ({"share": 0.5, "unsure": 0.5}, (8, 8, 1), "both say which rows have several views"),
        ({"flp": True}, (8, 8, 1), "did you mean 'flip'"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(tta, shape, message):
    with pytest.raises(ConfigError, match=message):
        Config("npz:there.npz", (Flatten(), Dense(10)), tta=tta).check_on(shape, 10)
