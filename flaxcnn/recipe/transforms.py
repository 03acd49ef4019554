"""Specifications of what augmentation does to a single image.

Sizes and strengths have the meaning of torchvision's transforms of the same name unless a field
says otherwise, so that 0.2 is here what it is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.fields import check_bounds, setting

Fill = Literal["nearest", "reflect", "constant"]
Pair = tuple[float, float]
FILL = "what lies outside: the edge repeated (`nearest`), mirrored (`reflect`), or `constant`: 0 \
after standardisation"


class Checked:
    """Range checks of the kinds."""

    def __post_init__(self) -> None:
        check_bounds(self, "augment.")


def check_range(name: str, pair: Pair, low: float, high: float = float("inf")) -> None:
    """A pair (least, most) within (low, high]."""
    if not low < pair[0] <= pair[1] <= high:
        below = "" if high == float("inf") else f" and at most {high:g}"
        raise ConfigError(
            f"augment.{name} must be two numbers in order, above {low:g}{below} (got {list(pair)})"
        )


# -- geometry ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shift(Checked):
    """Move an image by up to `height` and `width` of its size; whole pixels, edges repeated."""

    height: float = setting(0.1, "largest vertical shift, as a fraction", at_least=0, below=1)
    width: float = setting(0.1, "largest horizontal shift, as a fraction", at_least=0, below=1)

    fill: ClassVar[Fill] = "nearest"


@dataclass(frozen=True)
class Flip:
    """Mirror an image left to right with probability 1/2."""


@dataclass(frozen=True)
class AlternatingFlip:
    """Mirror half of the images in the first epoch, and then those that were not mirrored before.

    So two epochs see both views of every image (Jordan 2024, arXiv:2404.00498).
    """


@dataclass(frozen=True)
class Crop(Checked):
    """Pad by `padding` pixels on each side and crop back at a random place.

    As torchvision's RandomCrop(size, padding, padding_mode), and as He et al. 2015 do with 4 zeros.
    """

    padding: int = setting(4, "pixels on each side", at_least=1)
    fill: Fill = setting("reflect", FILL)


@dataclass(frozen=True)
class Rotate(Checked):
    """Turn an image about its centre by an angle between -`degrees` and `degrees`.

    As torchvision's RandomRotation, bilinear. Keras's factor is a fraction of a whole turn.
    """

    degrees: float = setting(15.0, "largest angle", above=0, at_most=180)
    fill: Fill = setting("reflect", FILL)


@dataclass(frozen=True)
class Zoom(Checked):
    """Show 1 - `amount` to 1 + `amount` times the height and width of an image.

    As Keras's RandomZoom(amount): above 1 the image is smaller and its surroundings are filled.
    """

    amount: float = setting(0.1, "largest change of the size shown", above=0, below=1)
    fill: Fill = setting("reflect", FILL)


@dataclass(frozen=True)
class Shear(Checked):
    """Slant an image about its centre by an angle of up to `degrees` along x, `vertical` along y.

    As the `shear` of torchvision's RandomAffine.
    """

    degrees: float = setting(10.0, "largest angle along x", at_least=0, below=90)
    vertical: float = setting(0.0, "largest angle along y", at_least=0, below=90)
    fill: Fill = setting("reflect", FILL)


@dataclass(frozen=True)
class Translate(Checked):
    """Move an image by up to `height` and `width` of its size, also by parts of a pixel.

    As Keras's RandomTranslation, bilinear; `Shift` moves by whole pixels.
    """

    height: float = setting(0.1, "largest vertical move, as a fraction", at_least=0, at_most=1)
    width: float = setting(0.1, "largest horizontal move, as a fraction", at_least=0, at_most=1)
    fill: Fill = setting("reflect", FILL)


@dataclass(frozen=True)
class Affine(Checked):
    """Turn, scale, slant and move in one: torchvision's RandomAffine, but moves are not rounded."""

    degrees: float = setting(0.0, "largest angle", at_least=0, at_most=180)
    translate: Pair = setting((0.0, 0.0), "largest moves in x and y, as fractions")
    scale: Pair = setting((1.0, 1.0), "least and largest magnification")
    shear: float = setting(0.0, "largest angle of slant along x", at_least=0, below=90)
    fill: Fill = setting("reflect", FILL)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("scale", self.scale, 0)
        if not all(0 <= part <= 1 for part in self.translate):
            raise ConfigError(
                f"augment.translate must be two fractions from 0 to 1 (got {list(self.translate)})"
            )


@dataclass(frozen=True)
class RandomResizedCrop(Checked):
    """Cut out a part of random area and aspect, and stretch it to the size of the image.

    As torchvision's, bilinear: of ten parts drawn, the first that fits (Szegedy et al. 2014).
    """

    scale: Pair = setting((0.08, 1.0), "least and largest area, as a fraction of the image's")
    ratio: Pair = setting((0.75, 4 / 3), "least and largest width divided by height")

    def __post_init__(self) -> None:
        check_range("scale", self.scale, 0, 1)
        check_range("ratio", self.ratio, 0)

    fill: ClassVar[Fill] = "reflect"  # nothing is outside but half a pixel


@dataclass(frozen=True)
class Elastic(Checked):
    """Move every pixel by a smooth random field: `alpha` times blurred uniform numbers, in pixels.

    Simard et al. 2003; torchvision's ElasticTransform has twice the `alpha` for the same field.
    """

    alpha: float = setting(34.0, "strength, in pixels before the blur", above=0)
    sigma: float = setting(4.0, "standard deviation of the blur, in pixels", above=0)
    fill: Fill = setting("reflect", FILL)


# -- parts erased --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cutout(Checked):
    """Erase a square around a random pixel, cut off where it leaves the image.

    DeVries and Taylor 2017 (arXiv:1708.04552). Erased pixels are 0 after standardisation.
    """

    size: int = setting(8, "side of the square, in pixels", at_least=1)


@dataclass(frozen=True)
class RandomErasing(Checked):
    """Erase a rectangle of random area, aspect and place, with probability `prob`.

    Zhong et al. 2017 (arXiv:1708.04896), as torchvision has it with value=0 after Normalize.
    """

    prob: float = setting(0.5, "probability", at_least=0, at_most=1)
    scale: Pair = setting((0.02, 0.33), "least and largest area, as a fraction of the image's")
    ratio: Pair = setting((0.3, 3.3), "least and largest height divided by width")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("scale", self.scale, 0, 1)
        check_range("ratio", self.ratio, 0)


# -- colours -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Brightness(Checked):
    """Multiply by 1 - `amount` to 1 + `amount`, as torchvision's ColorJitter(brightness)."""

    amount: float = setting(0.2, "largest change of the factor", above=0)


@dataclass(frozen=True)
class Contrast(Checked):
    """Scale distances to the image's mean grey by 1 - `amount` to 1 + `amount`: ColorJitter's."""

    amount: float = setting(0.2, "largest change of the factor", above=0)


@dataclass(frozen=True)
class Saturation(Checked):
    """Scale distances to the grey image by 1 - `amount` to 1 + `amount`: ColorJitter's."""

    amount: float = setting(0.2, "largest change of the factor", above=0)


@dataclass(frozen=True)
class Hue(Checked):
    """Turn all hues by up to `amount` of the colour circle: ColorJitter's."""

    amount: float = setting(0.05, "largest turn; 0.5 is half the circle", above=0, at_most=0.5)


@dataclass(frozen=True)
class Grayscale(Checked):
    """Make an image grey with probability `prob`, as torchvision's RandomGrayscale."""

    prob: float = setting(0.1, "probability", at_least=0, at_most=1)


@dataclass(frozen=True)
class Blur(Checked):
    """Blur with a Gaussian of `size` taps and random width, as torchvision's GaussianBlur."""

    size: int = setting(3, "taps in each direction, an odd number", at_least=3)
    sigma: Pair = setting((0.1, 2.0), "least and largest standard deviation, in pixels")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("sigma", self.sigma, 0)
        if self.size % 2 == 0:
            raise ConfigError(f"augment.size of blur must be an odd number (got {self.size})")


@dataclass(frozen=True)
class Noise(Checked):
    """Add Gaussian noise to every value and clip, as torchvision's GaussianNoise."""

    std: float = setting(0.1, "standard deviation; 1 is the range from black to white", above=0)


Geometry = (
    Shift | Flip | AlternatingFlip | Crop | Rotate | Zoom | Shear | Translate | Affine
    | RandomResizedCrop | Elastic
)  # fmt: skip
Colour = Brightness | Contrast | Saturation | Hue | Grayscale | Blur | Noise
Erasing = Cutout | RandomErasing
