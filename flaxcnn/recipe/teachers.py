"""Knowledge distillation: a trained network that teaches another."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.fields import about, check_bounds, setting


@dataclass(frozen=True)
class Distill:
    """The kept network of a finished run as teacher: Hinton et al. 2015 (arXiv:1503.02531).

    The loss of a row is (1 - weight) times that of its label, and weight times temperature^2 times
    the divergence KL(p of the teacher, p of the network), both of logits / temperature. The teacher
    sees the same augmented images.
    """

    run: str = field(metadata=about("folder of a finished run on images of the same shape"))
    temperature: float = setting(4.0, "what logits are divided by", above=0)
    weight: float = setting(0.9, "share of the loss that the teacher gives", at_least=0, at_most=1)
    digest: str = setting("", "SHA-256 of the teacher's weights; filled in")

    def __post_init__(self) -> None:
        check_bounds(self, "distill.")
        if not self.digest:
            object.__setattr__(self, "digest", self.digest_now())

    @property
    def folder(self) -> Path:
        """The path with ~ resolved."""
        return Path(self.run).expanduser()

    def digest_now(self) -> str:
        """The `params_digest` of the run.

        Raises:
            ConfigError: there is no such finished run.
        """
        try:
            summary = json.loads((self.folder / "summary.json").read_text())
            return str(summary["params_digest"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(
                f"distill.run must be the folder of a finished run (got {self.run!r})"
            ) from None
