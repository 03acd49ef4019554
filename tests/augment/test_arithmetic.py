"""The arithmetic of kinds against scipy, Pillow and matplotlib; `test_referee` has torchvision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import colors
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from flaxcnn.augment import colour, operations
from flaxcnn.augment.resampling import Map, resampled
from flaxcnn.augment.rows import Rows
from flaxcnn.rng import uniform, words_of

IMAGE = np.asarray(
    ndimage.gaussian_filter(
        np.random.default_rng(0).uniform(-200, 455, (4, 12, 10, 3)), (0, 1, 1, 0)
    ).clip(0, 255).round(), np.uint8,
)  # fmt: skip
# float32 coordinates of some pixels differ in the last digits, times differences of 255.
GEOMETRY = 0.02
LEVEL = 1.0  # Pillow cuts off to uint8, also what is in between


def numbers(value):
    return jnp.full(len(IMAGE), value, jnp.float32)


def pillow(function, image=IMAGE):
    return np.stack([np.asarray(function(Image.fromarray(each))) for each in image])


@pytest.mark.parametrize(
    ("fill", "mode"), [("nearest", "nearest"), ("reflect", "mirror"), ("constant", "grid-constant")]
)
def test_a_map_of_pixels_is_that_of_scipy(fill, mode):
    words = words_of(jax.random.split(jax.random.key(0), len(IMAGE)))
    rows = Rows(
        jnp.asarray(IMAGE), None, words, None, jnp.int32(0), 255.0, jnp.full((1, 1, 1), 40.0), None
    )
    found = resampled(rows, Map(yy=1.7, yx=0.4, y0=3.0, xy=-0.3, xx=1.2, x0=-2.5), fill)
    matrix = np.array([[1.7, 0.4], [-0.3, 1.2]])
    centre = (np.array(IMAGE.shape[1:3]) - 1) / 2
    offset = np.array([3.0, -2.5]) + centre - matrix @ centre
    for image, ours in zip(IMAGE, found, strict=True):
        for c in range(3):
            expected = ndimage.affine_transform(
                image[..., c].astype(float), matrix, offset, order=1, mode=mode, cval=40.0
            )
            np.testing.assert_allclose(ours[..., c], expected, atol=GEOMETRY)


@pytest.mark.parametrize("factor", [0.3, 1.0, 1.7])
@pytest.mark.parametrize(
    ("degenerate", "referee"),
    [
        (jnp.zeros_like, ImageEnhance.Brightness),
        (colour.mean_grey, ImageEnhance.Contrast),
        (colour.grey, ImageEnhance.Color),
        (operations._smoothed, ImageEnhance.Sharpness),
    ],
)
def test_blends(degenerate, referee, factor):
    image = jnp.asarray(IMAGE, jnp.float32)
    found = colour.blended(degenerate(image), image, numbers(factor), 255.0)
    expected = pillow(lambda image: referee(image).enhance(factor))
    np.testing.assert_allclose(found, expected, atol=2 * LEVEL)


@pytest.mark.parametrize(
    ("ours", "value", "referee", "close"),
    [
        ("_posterized", 3, lambda image: ImageOps.posterize(image, 3), 0),
        ("_solarized", 100 / 255, lambda image: ImageOps.solarize(image, 100), 0),
        ("_stretched", 0, ImageOps.autocontrast, LEVEL),
        ("_equalized", 0, ImageOps.equalize, 0),
    ],
)
def test_operations_on_levels(ours, value, referee, close):
    image = IMAGE.copy()
    image[0, ..., 1] = 77  # a channel that has one value
    found = getattr(operations, ours)(jnp.asarray(image, jnp.float32), numbers(value))
    np.testing.assert_allclose(found, pillow(referee, image), atol=close)


def test_levels_are_counted_and_looked_up_alike_on_every_platform():
    level = jnp.asarray(IMAGE.reshape(len(IMAGE), -1, 3), jnp.int32)
    added, compared = (operations._below(level, platform) for platform in ("cpu", "gpu"))
    np.testing.assert_array_equal(added, compared)
    taken, selected = (
        operations._looked_up(added.swapaxes(1, 2), level, platform) for platform in ("gpu", "tpu")
    )
    np.testing.assert_array_equal(taken, selected)
    assert int(added[1, 2, 100]) == (IMAGE[1, ..., 2] < 100).sum()


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.23])
def test_hue(turn):
    unit = (IMAGE / 255).astype(np.float32)
    hsv = colors.rgb_to_hsv(unit)
    hsv[..., 0] = (hsv[..., 0] + turn) % 1
    found = colour.turned_hue(jnp.asarray(unit), numbers(turn))
    np.testing.assert_allclose(found, colors.hsv_to_rgb(hsv), atol=1e-5)


def test_uniform_is_that_of_jax():
    keys = jax.random.split(jax.random.key(3), 50)
    expected = jax.vmap(lambda key: jax.random.uniform(key, minval=-2.0, maxval=3.0))(keys)
    np.testing.assert_allclose(uniform(words_of(keys), -2.0, 3.0), expected, atol=1e-6)
