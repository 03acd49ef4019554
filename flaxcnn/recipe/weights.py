"""Weights that a run starts from, in place of random ones."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.fields import about, setting

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Weights:
    """The weights of a finished run, or of a file that `flaxcnn export` wrote.

    Arrays are taken by name, such as `conv2d/kernel`, and must have the shape that the network has.
    The last layer stays random if its number of classes differs.
    """

    BY_VALUE: ClassVar = ("path",)  # what `init_from=runs/parent` sets

    path: str = field(metadata=about("folder of a finished run, or a .safetensors file"))
    only: tuple[str, ...] = setting(
        (), "patterns of names, such as `conv2d*`: take these alone; empty: all"
    )
    leave: tuple[str, ...] = setting((), "patterns of names that stay random")
    digest: str = setting("", "SHA-256 of the weights; filled in")

    def __post_init__(self) -> None:
        if not self.digest:
            object.__setattr__(self, "digest", self.digest_now())

    @property
    def file(self) -> Path:
        """The path with ~ resolved."""
        return Path(self.path).expanduser()

    def digest_now(self) -> str:
        """SHA-256 (hex) of the file, or the `params_digest` of the run.

        Raises:
            ConfigError: there is no such file or finished run.
        """
        summary = self.file / "summary.json"
        try:
            if self.file.suffix == SUFFIX:
                return hashlib.sha256(self.file.read_bytes()).hexdigest()
            return str(json.loads(summary.read_text())["params_digest"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(
                f"init_from.path must be a finished run or a {SUFFIX} file (got {self.path!r})"
            ) from None
