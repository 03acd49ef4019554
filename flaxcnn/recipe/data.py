"""Data: which pixels and rows a run sees."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, NamedTuple

from flaxcnn.errors import ConfigError, near_miss, one_of
from flaxcnn.recipe.augment import Augment
from flaxcnn.recipe.balance import ClassWeights
from flaxcnn.recipe.fields import Role, about, setting
from flaxcnn.recipe.layers import Shape
from flaxcnn.recipe.resize import Resize
from flaxcnn.recipe.splits import Archive, Split

MAX_SEED = 2**32 - 1


class DataFacts(NamedTuple):
    """What is known of a built-in data set before it is read."""

    shape: Shape  # (H, W, C)
    classes: int


KNOWN_DATA = {
    "digits": DataFacts((8, 8, 1), 10),
    "mnist": DataFacts((28, 28, 1), 10),
    "fashion_mnist": DataFacts((28, 28, 1), 10),
    "cifar10": DataFacts((32, 32, 3), 10),
}
DATA_SCHEMES = ("folder:", "csv:", "npz:", "tfds:", "hf:")
NAMED = ("tfds:", "hf:")  # by a name, not a path
FILES = ("folder:", "csv:", "hf:")  # encoded images of any size and channels
Channels = Literal["auto", "rgb", "grey"]


def known_data() -> str:
    """What a data set may be called, in words."""
    schemes = (f"{scheme}{'NAME' if scheme in NAMED else 'PATH'}" for scheme in DATA_SCHEMES)
    return one_of([*KNOWN_DATA, *schemes])


def meant(name: str) -> str:
    """`; did you mean 'folder:pets/'?` for a path without its scheme, else the near miss."""
    for suffix, scheme in ((".csv", "csv:"), (".npz", "npz:"), ("", "folder:")):
        if name.endswith(suffix) and (suffix or "/" in name) and ":" not in name:
            return f"; did you mean {scheme + name!r}?"
    return near_miss(name, [*KNOWN_DATA, *DATA_SCHEMES])


@dataclass(frozen=True)
class Data:
    """Which pixels and rows a run sees."""

    dataset: str = field(
        metadata=about(
            "`digits`, `mnist`, `fashion_mnist`, `cifar10`, `folder:PATH`, `csv:PATH`, `npz:PATH`, "
            "`tfds:NAME` or `hf:NAME`",
            role=Role.PIXELS,
        )
    )
    _: KW_ONLY
    resize: Resize | None = setting(
        None,
        "bring images to `resize.height` x `resize.width`; `resize.train` is `stretch`, "
        "`center_crop` or `random_crop`, `resize.evaluate` one of the first two",
        role=Role.PIXELS,
        before=None,
    )
    channels: Channels = setting(
        "auto",
        "of image files: `rgb` or `grey` brings all to it; `auto` keeps those of the first file, "
        "and makes grey ones among colour ones RGB",
        role=Role.PIXELS,
        before="auto",
    )
    normalize: Literal["unit", "per_pixel", "per_channel"] = setting(
        "unit",
        "`unit` divides by 255; `per_pixel` and `per_channel` standardise by the training rows",
        role=Role.PROGRAM,
    )
    augment: tuple[Augment, ...] = setting(
        (), "list of augmentations, drawn again for every image and epoch"
    )
    split: Split = setting(
        Archive(),
        "`archive`, or rows that a document chose: `permuted`, `ranges` or `fold`",
        role=Role.ROWS,
    )
    validation: float | int | Literal["test"] = setting(
        0.1,
        "training rows held out for validation, a fraction or a number, where the data has no "
        "validation split of its own",
        role=Role.HELD_OUT,
    )
    split_seed: int = setting(
        0,
        "seed of the hold-out; apart from `seed`, so that runs of all seeds see the same rows",
        at_least=0,
        at_most=MAX_SEED,
        role=Role.ROWS,
    )

    sampling: Literal["balanced"] | None = setting(
        None,
        "`balanced` draws the training rows of an epoch so that all classes are equally frequent",
        before=None,
    )
    class_weight: Literal["balanced"] | ClassWeights | None = setting(
        None,
        "factor of the training loss of each row: `balanced` is the number of rows over that of "
        'its class times the number of classes; `{"cat":2}` names classes, others have 1',
        role=Role.PROGRAM,
        before=None,
    )

    def _check_data(self) -> None:
        name, part = self.dataset, self.validation
        if name not in KNOWN_DATA and not any(
            name.startswith(scheme) and name != scheme for scheme in DATA_SCHEMES
        ):
            raise ConfigError(f"dataset must be {known_data()} (got {name!r}){meant(name)}")
        if part != "test" and not (part >= 1 if isinstance(part, int) else 0 < part < 1):
            raise ConfigError(
                "validation must be a fraction between 0 and 1 or a number of rows of at least 1 "
                f"(got {part!r})"
            )
        if self.sampling == "balanced" and self.class_weight == "balanced":
            raise ConfigError(
                "sampling=balanced and class_weight=balanced both make up for rare classes, and "
                "together they would do it twice; use one of them"
            )
        if self.resize and not name.startswith((*FILES, "tfds:")):
            raise ConfigError(
                f"resize: the images of {name} have one size already; resize applies to "
                f"{one_of((*FILES, 'tfds:'))}"
            )
        if self.channels != "auto" and not name.startswith(FILES):
            raise ConfigError(
                f"channels={self.channels} applies to {one_of(FILES)}, whose images are files (got "
                f"dataset={name})"
            )
