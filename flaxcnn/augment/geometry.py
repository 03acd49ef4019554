"""Pixels moved: by whole pixels, or any number of moves in one bilinear resampling.

Each kind says where a pixel of the result comes from. What follows each other in a chain and fills
the outside alike is composed into one such map, so that an image is interpolated once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from flaxcnn.augment.resampling import Map, reflected, resampled, slanted, turned
from flaxcnn.augment.rows import Rows, as_float, transform
from flaxcnn.recipe.augment import Augment
from flaxcnn.recipe.transforms import (
    Affine,
    AlternatingFlip,
    Crop,
    Elastic,
    Fill,
    Flip,
    Geometry,
    RandomResizedCrop,
    Rotate,
    Shear,
    Shift,
    Translate,
    Zoom,
)
from flaxcnn.rng import bits16, coin, fold_in, key_of, randint, uniform

WHOLE = Shift | Flip | AlternatingFlip | Crop  # move pixels without computing with them
ATTEMPTS = 10  # of a part with random area and aspect to fit into the image
Step = tuple[int, Geometry]  # a kind and its number in the chain


# -- which kinds are one pass --------------------------------------------------------------------


def joined(chain: Iterable[Augment]) -> Iterator[tuple[Step | tuple[int, Augment], ...]]:
    """The (number, kind) of a chain in groups; one of several is a single resampling."""
    run: list[Step] = []
    fill: Fill | None = None
    for number, kind in enumerate(chain):
        own = getattr(kind, "fill", None)
        ended = bool(run) and isinstance(run[-1][1], Elastic)  # its field is on the result's grid
        if not isinstance(kind, Geometry) or ended or (own and fill and own != fill):
            yield from _groups(run)
            run, fill = [], None
        if isinstance(kind, Geometry):
            run.append((number, kind))
            fill = fill or own
        else:
            yield ((number, kind),)
    yield from _groups(run)


def _groups(run: list[Step]) -> Iterator[tuple[Step, ...]]:
    if all(isinstance(kind, WHOLE) for _, kind in run):
        yield from ((step,) for step in run)
    else:
        yield tuple(run)


@transform.register
def _(kind: Geometry, rows: Rows, partner: Rows | None) -> Rows:
    return rows.with_image(moved([(kind, rows)], rows))


def moved(steps: Sequence[tuple[Geometry, Rows]], rows: Rows) -> jax.Array:
    """The images [B, H, W, C] of `rows` after one or more kinds, each with rows to draw from."""
    kind, own = steps[0]
    if len(steps) == 1:
        match kind:
            case Flip():
                return _mirrored(rows.image, coin(own.words))
            case AlternatingFlip():
                return _mirrored(rows.image, _alternating(own))
            case Shift() | Crop():
                return _by_pixels(rows, _pixels(kind, own), kind.fill)
    size = rows.image.shape[1], rows.image.shape[2]
    total = Map()
    for kind, own in steps:
        total = total.after(source_of(kind, own, size))
    fill = next(kind.fill for kind, _ in steps if hasattr(kind, "fill"))
    field = None
    if isinstance(steps[-1][0], Elastic):
        field = _field(*steps[-1], size)  # type: ignore[arg-type]
    return resampled(rows, total, fill, field)


# -- whole pixels --------------------------------------------------------------------------------


def _mirrored(image: jax.Array, chosen: jax.Array) -> jax.Array:
    return jnp.where(chosen[:, None, None, None], image[:, :, ::-1], image)


def _alternating(rows: Rows) -> jax.Array:
    """Which images [B] are mirrored: a coin per row for all epochs, turned over in odd ones."""
    assert rows.always is not None
    return coin(rows.always) ^ (rows.epoch % 2 == 1)


def _pixels(kind: Shift | Crop, rows: Rows) -> tuple[jax.Array, jax.Array]:
    """By how many pixels [B] int32 each image is moved, in y and x."""
    height, width = rows.image.shape[1:3]
    most = (
        (int(kind.height * height), int(kind.width * width))
        if isinstance(kind, Shift) else (kind.padding, kind.padding)
    )  # fmt: skip
    return (
        randint(rows.draw(0), -most[0], most[0] + 1),
        randint(rows.draw(1), -most[1], most[1] + 1),
    )


def _by_pixels(rows: Rows, by: tuple[jax.Array, jax.Array], fill: Fill) -> jax.Array:
    """Images moved by whole pixels `by`, [B] int32 in y and in x."""
    image, inside = rows.image, jnp.bool_(True)
    for axis, own in enumerate(by):
        size = image.shape[1 + axis]
        source = jnp.arange(size)[None] + own[:, None]
        if fill == "constant":
            there = (source >= 0) & (source < size)
            inside = inside & (there[:, :, None] if axis == 0 else there[:, None, :])
        source = reflected(source, size) if fill == "reflect" else jnp.clip(source, 0, size - 1)
        take = functools.partial(jnp.take, axis=axis, mode="clip")  # no index is outside
        image = jax.vmap(take)(image, source)
    if fill != "constant":
        return image
    return jnp.where(inside[..., None], as_float(image), rows.blank[None])


# -- maps ----------------------------------------------------------------------------------------


def source_of(kind: Geometry, rows: Rows, size: tuple[int, int]) -> Map:
    """Where the pixels of a kind's result come from; of Elastic, without its field."""
    height, width = size
    match kind:
        case Flip():
            return Map(xx=jnp.where(coin(rows.words), -1.0, 1.0))
        case AlternatingFlip():
            return Map(xx=jnp.where(_alternating(rows), -1.0, 1.0))
        case Shift() | Crop():
            y, x = _pixels(kind, rows)
            return Map(y0=as_float(y), x0=as_float(x))
        case Rotate(degrees=most):
            return turned(uniform(rows.draw(0), -most, most))
        case Zoom(amount=most):
            shown = uniform(rows.draw(0), 1 - most, 1 + most)
            return Map(yy=shown, xx=shown)
        case Shear(degrees=most, vertical=up):
            return slanted(uniform(rows.draw(0), -most, most), uniform(rows.draw(1), -up, up))
        case Translate(height=up, width=along):
            y, x = uniform(rows.draw(0), -up, up), uniform(rows.draw(1), -along, along)
            return Map(y0=-y * height, x0=-x * width)
        case Affine():
            return _affine(kind, rows, size)
        case RandomResizedCrop():
            return _part(kind, rows, size)
        case Elastic():
            return Map()


def _affine(kind: Affine, rows: Rows, size: tuple[int, int]) -> Map:
    (along, up), most, slant = kind.translate, kind.degrees, kind.shear
    ranges = ((-slant, slant), kind.scale, (-most, most), (-along, along), (-up, up))
    slant, scale, turn, x, y = rows.settled(
        tuple(uniform(rows.draw(number), *limits) for number, limits in enumerate(ranges))
    )
    shown, move = Map(yy=1.0 / scale, xx=1.0 / scale), Map(y0=-y * size[0], x0=-x * size[1])
    return slanted(slant).after(shown).after(turned(turn)).after(move)


def part_of_area(
    rows: Rows, scale: tuple[float, float], ratio: tuple[float, float], strictly: bool
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """A part of random area and aspect: of ATTEMPTS drawn, the first that fits.

    Args:
        rows: to draw from; draws 0 to 3.
        scale: least and largest area, as a fraction of the image's.
        ratio: least and largest first side divided by the second, uniform in its logarithm.
        strictly: sides are below those of the image.

    Returns:
        whether any fits, then the sides and the first pixels in the same order: [B] each, as
        float32 whole numbers. The sides are (first, second) of an image (H, W).
    """
    height, width = rows.image.shape[1:3]
    numbers = jnp.arange(ATTEMPTS)[None]
    first, second = (fold_in((word[0][:, None], word[1][:, None]), numbers)
                     for word in (rows.draw(0), rows.draw(1)))  # fmt: skip
    low, high = np.log(ratio).tolist()
    drawn = uniform(first, *scale), uniform(second, low, high)  # [B, ATTEMPTS] each
    at = uniform(rows.draw(2)), uniform(rows.draw(3))
    (share, shape), places = rows.settled((drawn, at))
    area, aspect = share * (height * width), jnp.exp(shape)
    tall, wide = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    less = 1 if strictly else 0
    fits = (tall <= height - less) & (wide <= width - less) & (tall >= 1) & (wide >= 1)
    chosen = fits.argmax(axis=1)[:, None]
    tall, wide = (jnp.take_along_axis(side, chosen, axis=1)[:, 0] for side in (tall, wide))
    y, x = (
        jnp.floor(place * (whole - side + 1.0))
        for place, whole, side in zip(places, (height, width), (tall, wide), strict=True)
    )
    return fits.any(axis=1), tall, wide, y, x


def _part(kind: RandomResizedCrop, rows: Rows, size: tuple[int, int]) -> Map:
    """The part of an image that becomes the whole of it; the whole where none fits."""
    inverse = (1 / kind.ratio[1], 1 / kind.ratio[0])  # torchvision's is width by height
    found, tall, wide, y, x = part_of_area(rows, kind.scale, inverse, strictly=False)
    height, width = size
    tall, wide = jnp.where(found, tall, height), jnp.where(found, wide, width)
    y, x = jnp.where(found, y, 0.0), jnp.where(found, x, 0.0)
    return Map(
        yy=tall / height, y0=y + tall / 2 - height / 2, xx=wide / width, x0=x + wide / 2 - width / 2
    )


def _field(kind: Elastic, rows: Rows, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Where the pixels [B, H, W] come from beside their own place, in y and x."""
    blur = [
        jnp.asarray(
            ndimage.gaussian_filter1d(np.eye(n), kind.sigma, axis=0, mode="mirror"), jnp.float32
        )
        for n in size
    ]

    def along(number: int) -> jax.Array:
        bits = bits16(key_of(rows.words), number, size[0] * size[1])
        noise = (bits.astype(jnp.float32) + 0.5) * (2.0 / 2**16) - 1.0
        noise = noise.reshape(-1, *size)
        smooth = jnp.einsum("ij,bjk,lk->bil", blur[0], noise, blur[1], precision="highest")
        return kind.alpha * smooth

    return along(0), along(1)
