"""Specifications of augmentation; `flaxcnn.augment` applies them inside the step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.fields import setting
from flaxcnn.recipe.layers import Shape
from flaxcnn.recipe.references import Json, TakesArguments, digest, remember
from flaxcnn.recipe.transforms import (
    Affine,
    AlternatingFlip,
    Blur,
    Brightness,
    Checked,
    Colour,
    Contrast,
    Crop,
    Cutout,
    Elastic,
    Erasing,
    Flip,
    Geometry,
    Grayscale,
    Hue,
    Noise,
    RandomErasing,
    RandomResizedCrop,
    Rotate,
    Saturation,
    Shear,
    Shift,
    Translate,
    Zoom,
)

__all__ = [
    "Affine", "AlternatingFlip", "AugMix", "Augment", "Augmentation", "Blur", "Brightness",
    "Contrast", "Crop", "CutMix", "Cutout", "Elastic", "Flip", "Grayscale", "Hue", "Mixup", "Noise",
    "Policy", "RandAugment", "RandomErasing", "RandomResizedCrop", "Rotate", "Saturation", "Shear",
    "Shift", "Translate", "TrivialAugment", "Zoom",
]  # fmt: skip

MAX_CHAIN = 64  # operations on a row, all of them compiled


@dataclass(frozen=True)
class Mixup(Checked):
    """Blend an image and its label with another training image and that one's label.

    x = w * x1 + (1 - w) * x2 with w from Beta(alpha, alpha), and the same for the targets (Zhang
    et al. 2017, arXiv:1710.09412). As torchvision's MixUp, but every row draws its own w.
    """

    alpha: float = setting(0.2, "of the Beta distribution; 1 is uniform", above=0)


@dataclass(frozen=True)
class CutMix(Checked):
    """Replace a rectangle by that of another training image; targets are mixed by its area.

    The rectangle has the image's aspect, area 1 - w with w from Beta(alpha, alpha), and a random
    centre; it is cut off at the edges (Yun et al. 2019, arXiv:1905.04899).
    """

    alpha: float = setting(1.0, "of the Beta distribution; 1 is uniform", above=0)


@dataclass(frozen=True)
class Policy(Checked):
    """With probability `prob`, do one of several kinds, each as likely as its weight says.

    Every row draws for itself. `Policy((Blur(),), prob=0.3)` blurs 3 of 10 images, and
    `Policy((Mixup(), CutMix()))` gives a row one of the two.
    """

    of: tuple[Augment, ...] = setting((), "the kinds")
    prob: float = setting(1.0, "probability that anything is done", at_least=0, at_most=1)
    weights: tuple[float, ...] = setting((), "one a kind; without them all are equally likely")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.of:
            raise ConfigError("augment.of of a policy is empty; give it at least one kind")
        if self.weights and (
            len(self.weights) != len(self.of) or min(self.weights) < 0 or not sum(self.weights)
        ):
            raise ConfigError(
                f"augment.weights of a policy must be {len(self.of)} numbers of at least 0, not "
                f"all 0, one for each kind (got {list(self.weights)})"
            )


@dataclass(frozen=True)
class RandAugment(Checked):
    """`num_ops` operations after each other, each drawn from 14, all at one `magnitude`.

    Cubuk et al. 2019 (arXiv:1909.13719), with torchvision's operations and their strengths at each
    magnitude; geometry is bilinear, and what lies outside is 0 after standardisation.
    """

    num_ops: int = setting(2, "operations in a row", at_least=1, at_most=8)
    magnitude: int = setting(9, "strength of all operations", at_least=0, at_most=30)


@dataclass(frozen=True)
class TrivialAugment:
    """One operation of random kind and random magnitude.

    Mueller and Hutter 2021 (arXiv:2103.10158), with torchvision's TrivialAugmentWide's operations.
    """


@dataclass(frozen=True)
class AugMix(Checked):
    """An image blended with a mixture of chains of one to three random operations.

    Hendrycks et al. 2019 (arXiv:1912.02781), with the operations of torchvision's AugMix with
    all_ops=False, as in the paper; the consistency loss of the paper is not part of it.
    """

    severity: int = setting(3, "strength of all operations", at_least=1, at_most=10)
    width: int = setting(3, "chains that are mixed", at_least=1, at_most=8)
    depth: int = setting(3, "longest chain", at_least=1, at_most=8)
    alpha: float = setting(1.0, "of the Dirichlet and Beta distributions", above=0)


@dataclass(frozen=True, init=False)
class Augmentation(TakesArguments):
    """A function of one's own: `augment(key, image, target) -> (image, target)` of a single row.

    `key` is a jax random key of the row in this epoch, `image` [H, W, C] float32 in the units of
    the stored pixels (0 to 255), `target` [K] float32 the distribution over the classes. One that
    also has the parameters `partner_image` and `partner_target` gets those of another training row.
    In Python `function` may be the function itself.
    """

    function: str
    prob: float = setting(1.0, "probability, drawn for each row", at_least=0, at_most=1)
    source: str = ""  # SHA-256 of the file that has the function; empty for a library's
    arguments: tuple[tuple[str, Json], ...] = ()

    def __init__(
        self, function: str | Callable[..., Any], prob: float = 1.0, *, source: str = "",
        **arguments: Any,
    ):  # fmt: skip
        if not isinstance(function, str):
            function, source = remember(function, "augment")
        fields = {"function": function, "prob": prob, "source": source or digest(function)}
        self._set("augment", fields, arguments)
        if not (isinstance(prob, int | float) and 0 <= prob <= 1):
            raise ConfigError(
                f"augment.prob of {function} must be at least 0 and at most 1 (got {prob!r})"
            )


Augment = Geometry | Erasing | Colour | Mixup | CutMix | Policy | RandAugment | TrivialAugment \
    | AugMix | Augmentation  # fmt: skip


def each_kind(chain: Iterable[Augment]) -> Iterator[Augment]:
    """Each kind of a chain, and what policies choose from in place of them."""
    for kind in chain:
        if isinstance(kind, Policy):
            yield from each_kind(kind.of)
        else:
            yield kind


def check_chain(chain: Iterable[Augment], shape: Shape) -> None:
    """Whether a chain can be applied to images of `shape`, (H, W, C).

    Raises:
        ConfigError: one needs larger images, or images in colour.
    """
    height, width, channels = shape
    size = min(height, width)
    if (count := sum(1 for _ in each_kind(chain))) > MAX_CHAIN:
        raise ConfigError(f"augment: a chain has at most {MAX_CHAIN} operations (got {count})")
    for kind in each_kind(chain):
        name = type(kind).__name__.lower()
        match kind:
            case Crop(padding=most) if most >= size:
                what = f"padding={most} must be below {size}"
            case Cutout(size=most) if most > size:
                what = f"size={most} must be at most {size}"
            case Blur(size=taps) if taps // 2 >= size:
                what = f"size={taps} must be below {2 * size}"
            case Saturation() | Hue() | Grayscale() if channels != 3:
                what = "works on images of three channels"
            case _:
                continue
        raise ConfigError(f"augment: {name}: {what} (the images are {height}x{width}x{channels})")
