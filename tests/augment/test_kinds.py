"""Every kind: a function of seed, epoch and row, the same on uint8 and floats; what it draws."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxcnn.augment.chain import augment, mixes, softens
from flaxcnn.augment.mixing import LEVELS, _beta_levels, _gamma_levels
from flaxcnn.data.batches import Batch, partners
from flaxcnn.errors import ConfigError
from flaxcnn.recipe.augment import (
    Affine,
    AlternatingFlip,
    AugMix,
    Blur,
    Brightness,
    Contrast,
    Crop,
    CutMix,
    Cutout,
    Elastic,
    Flip,
    Grayscale,
    Hue,
    Mixup,
    Noise,
    Policy,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    Rotate,
    Saturation,
    Shear,
    Shift,
    Translate,
    TrivialAugment,
    Zoom,
    check_chain,
)

ROWS, SHAPE, CLASSES = 60, (12, 10, 3), 4
IMAGES = np.random.default_rng(0).integers(0, 256, (ROWS, *SHAPE), np.uint8)
LABELS = np.arange(ROWS, dtype=np.int32) % CLASSES
BLANK = np.full((1, 1, 1), 100.0, np.float32)
# Pixels of 0 to 255: some float32 roundings, in another order for another batch size.
CLOSE = 1e-3
# Floats of 0 to 1 times 255 against 0 to 255; where a value is cut into levels, one may differ.
SCALED = 0.01
KINDS = [
    Shift(0.2, 0.2), Flip(), AlternatingFlip(), Crop(3), Crop(3, "constant"), Crop(3, "nearest"),
    Rotate(40), Rotate(40, "constant"), Zoom(0.4, "nearest"), Shear(30, 20), Translate(0.3, 0.2),
    Affine(20, (0.1, 0.2), (0.6, 1.4), 10), RandomResizedCrop(), Elastic(20, 2), Cutout(5),
    RandomErasing(0.8), Brightness(0.5), Contrast(0.5), Saturation(0.9), Hue(0.4), Grayscale(0.5),
    Blur(5), Noise(0.1), Mixup(1.0), CutMix(), TrivialAugment(),
    pytest.param(RandAugment(2, 20), marks=pytest.mark.slow),
    pytest.param(AugMix(width=2, depth=2), marks=pytest.mark.slow),
    Policy((Flip(), Blur(), Mixup()), 0.7, (1.0, 2.0, 3.0)),
]  # fmt: skip


@functools.partial(jax.jit, static_argnums=(0, 5))
def apply(chain, images, rows, others, epoch, platform=None):
    def batch(rows, partner=None):
        return Batch(
            jnp.asarray(images)[rows], jnp.asarray(LABELS)[rows], rows, rows >= 0, partner=partner
        )

    whole = batch(rows, batch(others) if mixes(chain) else None)
    seeds = jnp.zeros(4, jnp.uint32)
    classes = CLASSES if softens(chain) else 0
    return augment(chain, seeds, epoch, whole, BLANK, classes, platform)


def augmented(chain, rows=range(ROWS), epoch=0, images=IMAGES, platform=None):
    rows = jnp.asarray(list(rows), jnp.int32)
    every = jnp.arange(ROWS, dtype=jnp.int32)
    others = partners(jnp.zeros(4, jnp.uint32), jnp.int32(epoch), rows, every)
    image, target = apply(tuple(chain), images, rows, others, jnp.int32(epoch), platform)
    return np.asarray(image), None if target is None else np.asarray(target)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_depends_on_seed_epoch_and_row_alone(kind):
    image, target = augmented((kind,))
    assert image.shape == IMAGES.shape
    assert image.dtype in (np.uint8, np.float32)
    picks = np.random.default_rng(1).integers(0, ROWS, ROWS)  # of one size: one program
    again, targets = augmented((kind,), picks)
    np.testing.assert_allclose(again, image[picks], atol=CLOSE)
    if target is not None:
        np.testing.assert_allclose(target.sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(targets, target[picks], atol=1e-6)
    changed = (image != IMAGES).any((1, 2, 3))
    other, _ = augmented((kind,), epoch=1)
    assert changed.mean() > 0.2
    assert (other != image).any((1, 2, 3)).mean() > 0.2
    assert np.isfinite(image).all()
    assert image.min() >= 0
    assert image.max() <= 255 + CLOSE


@pytest.mark.parametrize(
    "kind", [Rotate(40), Affine(20, fill="constant"), Zoom(0.4, "nearest"), Elastic(20, 2)], ids=str
)
def test_a_tpu_resamples_by_products_to_the_same_pixels(kind):
    np.testing.assert_allclose(
        augmented((kind,), platform="tpu")[0], augmented((kind,))[0], atol=CLOSE
    )


@pytest.mark.slow
def test_a_batch_of_another_size_changes_nothing():
    chain = (Flip(), Crop(2), Rotate(30), Hue(), Cutout(3), Policy((Mixup(), CutMix())))
    (image, target), picks = augmented(chain), [41, 7, 41, 0, 13]
    again, targets = augmented(chain, picks)
    np.testing.assert_allclose(again, image[picks], atol=CLOSE)
    np.testing.assert_allclose(targets, target[picks], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_floats_from_0_to_1_give_the_same_pictures(kind):
    if isinstance(kind, Cutout | RandomErasing) or getattr(kind, "fill", "") == "constant":
        pytest.skip("fills with the blank value, which is one of the stored pixels")
    if isinstance(kind, RandAugment | TrivialAugment | AugMix):
        pytest.skip("as above")
    whole, _ = augmented((kind,))
    part, _ = augmented((kind,), images=(IMAGES / 255).astype(np.float32))
    assert part.dtype == np.float32
    np.testing.assert_allclose(255 * part, whole, atol=SCALED)


def test_two_epochs_of_alternating_flip_show_both_views():
    first, second = (augmented((AlternatingFlip(),), epoch=epoch)[0] for epoch in (0, 1))
    third = augmented((AlternatingFlip(),), epoch=2)[0]
    np.testing.assert_array_equal(second, first[:, :, ::-1])
    np.testing.assert_array_equal(third, first)
    mirrored = (first == IMAGES[:, :, ::-1]).all((1, 2, 3))
    assert 0.3 < mirrored.mean() < 0.7


@pytest.mark.parametrize("fill", ["reflect", "nearest", "constant"])
def test_crop_is_a_part_of_the_padded_image(fill):
    mode = {"reflect": "reflect", "nearest": "edge", "constant": "constant"}[fill]
    values = {"constant_values": 100} if fill == "constant" else {}
    image, _ = augmented((Crop(3, fill),))
    found = set()
    for original, cropped in zip(IMAGES, image, strict=True):
        wide = np.pad(original, ((3, 3), (3, 3), (0, 0)), mode, **values)
        places = [
            (y, x)
            for y in range(7)
            for x in range(7)
            if (wide[y : y + 12, x : x + 10] == cropped).all()
        ]
        assert len(places) == 1
        found.update(places)
    assert len(found) > 25  # of 49


def test_mixup_mixes_what_the_partner_became():
    """The partner has been flipped with its own draw, and noise comes after the mixing."""
    image, target = augmented((Flip(), Mixup(1.0)))
    flipped, _ = augmented((Flip(),))
    others = np.asarray(partners(
        jnp.zeros(4, jnp.uint32), jnp.int32(0), jnp.arange(ROWS, dtype=jnp.int32),
        jnp.arange(ROWS, dtype=jnp.int32),
    ))  # fmt: skip
    eye = np.eye(CLASSES)
    for row, other in enumerate(others):
        difference = flipped[row].astype(float) - flipped[other]
        if other == row:
            continue
        share = ((image[row] - flipped[other]) * difference).sum() / (difference**2).sum()
        assert -1e-5 <= share <= 1 + 1e-5
        expected = share * flipped[row] + (1 - share) * flipped[other]
        np.testing.assert_allclose(image[row], expected, atol=CLOSE)
        labels = share * eye[LABELS[row]] + (1 - share) * eye[LABELS[other]]
        np.testing.assert_allclose(target[row], labels, atol=1e-4)


def test_cutmix_weighs_targets_by_area():
    image, target = augmented((CutMix(),))
    every = jnp.arange(ROWS, dtype=jnp.int32)
    others = np.asarray(partners(jnp.zeros(4, jnp.uint32), jnp.int32(0), every, every))
    eye, areas = np.eye(CLASSES), []
    for row, other in enumerate(others):
        if other == row:
            continue
        taken = (image[row] == IMAGES[other]).all(-1)
        assert (taken | (image[row] == IMAGES[row]).all(-1)).all()
        part = taken.mean()
        areas.append(part)
        labels = (1 - part) * eye[LABELS[row]] + part * eye[LABELS[other]]
        np.testing.assert_allclose(target[row], labels, atol=1e-6)
    assert 0.1 < np.mean(areas) < 0.7


def test_partners_are_uniform_over_the_training_rows():
    rows = jnp.asarray([3, 5, 8, 13, 21], jnp.int32)
    asked = jnp.arange(5000, dtype=jnp.int32)
    found = np.asarray(partners(jnp.zeros(4, jnp.uint32), jnp.int32(2), asked, rows))
    values, counts = np.unique(found, return_counts=True)
    assert values.tolist() == rows.tolist()
    assert abs(counts - 1000).max() < 5 * 28.3  # five standard deviations


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_levels_are_quantiles(alpha):
    levels = _beta_levels(alpha)
    assert levels.mean() == pytest.approx(0.5, abs=1e-4)
    assert levels.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=1e-3)
    assert _gamma_levels(alpha).mean() == pytest.approx(alpha, rel=2 / LEVELS**0.5)


def test_a_policy_does_each_as_often_as_it_says():
    rows = np.arange(2000) % ROWS
    chain = (Policy((Cutout(1), Flip()), 0.5, (1.0, 3.0)),)
    numbers = jnp.arange(2000, dtype=jnp.int32)
    batch = Batch(jnp.asarray(IMAGES[rows]), jnp.asarray(LABELS[rows]), numbers, numbers >= 0)
    image, _ = augment(chain, jnp.zeros(4, jnp.uint32), jnp.int32(0), batch, BLANK)
    flipped = (np.asarray(image) == IMAGES[rows][:, :, ::-1]).all((1, 2, 3)).mean()
    kept = (np.asarray(image) == IMAGES[rows]).all((1, 2, 3)).mean()
    # Flip does nothing half of the time: 0.5 * 0.75 * 0.5 mirrored.
    assert flipped == pytest.approx(0.1875, abs=0.05)
    assert kept == pytest.approx(0.5 + 0.1875, abs=0.06)


def test_geometry_in_a_row_is_interpolated_once():
    """A quarter turn there and back is the image itself; twice interpolated it would be blurred."""
    there = dataclasses.replace(Rotate(), degrees=180.0)
    joined, _ = augmented((there, Zoom(0.5)))
    apart, _ = augmented((there, Noise(1e-6), Zoom(0.5)))
    sharp, blurred = (np.abs(np.diff(x, axis=1)).mean() for x in (joined, apart))
    assert sharp > 1.1 * blurred


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Crop(10), "augment: crop: padding=10 must be below 10"),
        (Cutout(11), "augment: cutout: size=11 must be at most 10"),
        (Blur(21), "augment: blur: size=21 must be below 20"),
        (Policy((Flip(), Cutout(20))), "augment: cutout: size=20"),
    ],
)
def test_what_does_not_fit_the_images_is_refused(kind, message):
    with pytest.raises(ConfigError, match=message):
        check_chain((kind,), SHAPE)
    check_chain((kind,), (64, 64, 3))


@pytest.mark.parametrize("kind", [Hue(), Saturation(), Grayscale()])
def test_colours_need_three_channels(kind):
    with pytest.raises(ConfigError, match="works on images of three channels"):
        check_chain((kind,), (28, 28, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Affine(scale=(2.0, 1.0)), r"augment.scale must be two numbers in order"),
        (lambda: Affine(translate=(2.0, 0.0)), r"augment.translate must be two fractions"),
        (lambda: Blur(4), "augment.size of blur must be an odd number"),
        (lambda: Policy(()), "augment.of of a policy is empty"),
        (lambda: Policy((Flip(),), 0.5, (1.0, 2.0)), "augment.weights of a policy must be 1 num"),
        (lambda: Mixup(0.0), "augment.alpha must be above 0"),
        (lambda: RandAugment(magnitude=31), "augment.magnitude must be from 0 to 30"),
    ],
)
def test_values_out_of_range(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
