"""The arithmetic of each kind against torchvision, draw by draw."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from flaxcnn.augment import colour, operations
from flaxcnn.augment.resampling import Map, resampled, slanted, turned
from flaxcnn.augment.rows import Rows
from flaxcnn.rng import words_of

torch = pytest.importorskip("torch", reason="torchvision is the referee (extra `peers`)")
# Wheels of torchvision are built for CUDA; beside a torch without it, two operators of the compiled
# part are missed when it is imported. Only Python functions are used here.
OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    with contextlib.suppress(RuntimeError):
        OPERATORS.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
pytest.importorskip("torchvision", reason="torchvision is the referee (extra `peers`)")
from torchvision.transforms import v2  # noqa: E402
from torchvision.transforms.v2 import functional as F  # noqa: E402

IMAGE = (
    ndimage.gaussian_filter(
        np.random.default_rng(0).uniform(-200, 455, (9, 12, 10, 3)), (0, 1, 1, 0)
    )
    .clip(0, 255)
    .round()
    .astype(np.uint8)
)
# float32 coordinates of some pixels differ in the last digits, times differences of 255.
GEOMETRY = 0.02
LEVEL = 1.0  # torchvision rounds or cuts off to uint8 after each operation
BILINEAR = v2.InterpolationMode.BILINEAR
SIZE = IMAGE.shape[1:3]


def tensor(image):
    return torch.from_numpy(np.moveaxis(np.asarray(image), -1, -3).copy())


def array(tensor):
    return np.moveaxis(tensor.numpy(), -3, -1)


def rows(image=IMAGE, blank=0.0):
    words = words_of(jax.random.split(jax.random.key(0), len(image)))
    return Rows(
        jnp.asarray(image), None, words, None, jnp.int32(0), 255.0,
        jnp.full((1, 1, 1), blank, jnp.float32), None,
    )  # fmt: skip


def affine(angle=0.0, shear=(0.0, 0.0), scale=1.0, translate=(0, 0)):
    found = F.affine(
        tensor(IMAGE).float(), angle, list(translate), scale, list(shear),
        interpolation=BILINEAR,
    )  # fmt: skip
    return array(found)


def numbers(value):
    return jnp.full(len(IMAGE), value, jnp.float32)


@pytest.mark.parametrize("angle", [-30.0, 7.0, 90.0])
def test_rotate(angle):
    found = resampled(rows(), turned(numbers(angle)), "constant")
    expected = array(F.rotate(
        tensor(IMAGE).float(), angle, interpolation=BILINEAR
    ))  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=GEOMETRY)


@pytest.mark.parametrize("along", [-20.0, 33.0])
@pytest.mark.parametrize("up", [0.0, 15.0])
def test_shear(along, up):
    found = resampled(rows(), slanted(numbers(along), up), "constant")
    np.testing.assert_allclose(found, affine(shear=(along, up)), atol=GEOMETRY)


def test_affine_in_the_order_of_torchvision():
    scale, angle, shear, (x, y) = 1.3, 25.0, 12.0, (2, -1)
    shown, move = Map(yy=1 / scale, xx=1 / scale), Map(y0=-float(y), x0=-float(x))
    source = slanted(numbers(shear)).after(shown).after(turned(numbers(angle))).after(move)
    found = resampled(rows(), source, "constant")
    expected = affine(-angle, (shear, 0.0), scale, (x, y))
    np.testing.assert_allclose(found, expected, atol=GEOMETRY)


@pytest.mark.parametrize("factor", [0.3, 1.0, 1.7])
@pytest.mark.parametrize(
    ("degenerate", "referee"),
    [
        (jnp.zeros_like, F.adjust_brightness),
        (colour.mean_grey, F.adjust_contrast),
        (colour.grey, F.adjust_saturation),
        (operations._smoothed, F.adjust_sharpness),
    ],
)
def test_blends(degenerate, referee, factor):
    image = jnp.asarray(IMAGE, jnp.float32)
    found = colour.blended(degenerate(image), image, numbers(factor), 255.0)
    np.testing.assert_allclose(found, array(referee(tensor(IMAGE), factor)), atol=2 * LEVEL)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.23])
def test_hue(turn):
    unit = (IMAGE / 255).astype(np.float32)
    found = colour.turned_hue(jnp.asarray(unit), numbers(turn))
    expected = array(F.adjust_hue(tensor(unit), turn))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("size", "sigma"), [(3, 0.5), (5, 2.0)])
def test_blur(size, sigma):
    found = colour.blurred(jnp.asarray(IMAGE, jnp.float32), numbers(sigma), size)
    expected = array(F.gaussian_blur(tensor(IMAGE).float(), [size, size], [sigma, sigma]))
    np.testing.assert_allclose(found, expected, atol=1e-3)  # sums of 25 products of 255


@pytest.mark.parametrize(
    ("ours", "referee", "value"),
    [
        ("_posterized", F.posterize, 3), ("_posterized", F.posterize, 8),
        ("_solarized", F.solarize, 0.4), ("_stretched", F.autocontrast, None),
        ("_equalized", F.equalize, None),
    ],
)  # fmt: skip
def test_operations_on_levels(ours, referee, value):
    image = IMAGE.copy()
    image[0, ..., 1] = 77  # a channel that has one value
    found = getattr(operations, ours)(jnp.asarray(image, jnp.float32), numbers(value or 0))
    given = () if value is None else (value if value > 1 else 255 * value,)
    expected = array(referee(tensor(image), *given))
    exact = ours in ("_posterized", "_equalized", "_solarized")
    np.testing.assert_allclose(found, expected, atol=0 if exact else LEVEL)


@pytest.mark.parametrize("name", ["rand", "trivial", "augmix"])
def test_operations_by_number(name):
    """Each operation of a policy at a strength of its table, as torchvision's policies call it."""
    policy = {
        "rand": v2.RandAugment, "trivial": v2.TrivialAugmentWide,
        "augmix": lambda **k: v2.AugMix(all_ops=False, **k),
    }[name](interpolation="bilinear")  # fmt: skip
    table = policy._PARTIAL_AUGMENTATION_SPACE if name == "augmix" else policy._AUGMENTATION_SPACE
    bins = 10 if name == "augmix" else 31
    bank = operations.space(name, bins, SIZE)
    assert bank.names == tuple(table)
    for number, (operation, (magnitudes, signed)) in enumerate(table.items()):
        values = magnitudes(bins, *SIZE)
        assert bank.signed[number] == signed
        if values is not None:
            expected = np.trunc(values.numpy()) if "Translate" in operation else values.numpy()
            # Whole pixels, where the last digit of a number decides between two of them.
            close = 1 if "Translate" in operation else 1e-5
            np.testing.assert_allclose(bank.strengths[number], expected, atol=close)
        for sign in (1, -1) if signed else (1,):
            strength = sign * bank.strengths[number, 7]
            which = jnp.full(len(IMAGE), number, jnp.int32)
            found = operations.operate(bank, rows(), which, numbers(strength))
            image = tensor(IMAGE).float() if operation in operations.GEOMETRY else tensor(IMAGE)
            expected = policy._apply_image_or_video_transform(
                image,
                operation,
                float(strength),
                BILINEAR,
                {torch.Tensor: None},
            )
            close = GEOMETRY if operation in operations.GEOMETRY else 2 * LEVEL
            np.testing.assert_allclose(found, array(expected), atol=close, err_msg=operation)
