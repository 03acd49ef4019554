"""Temperature scaling: probabilities that are as often right as they say."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

LIMITS = (0.01, 100.0)  # of temperatures that are looked at


def temperature_of(logits: np.ndarray, label: np.ndarray) -> float:
    """The temperature T at which softmax(logits / T) has the least cross-entropy.

    Guo et al. 2017 (arXiv:1706.04599). The order of classes stays, so no accuracy changes.

    Args:
        logits: [N, K] of rows that were not trained on.
        label: [N] of them.

    >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
    >>> round(temperature_of(logits, np.array([0, 0, 1, 1])), 3)  # right three times in four
    3.641
    """
    logits = logits.astype(np.float64)
    # By its logarithm: a factor of two up or down is one step either way.
    found = minimize_scalar(
        lambda log_t: loss_at(logits, label, np.exp(log_t)), bounds=np.log(LIMITS),
        method="bounded", options={"xatol": 1e-6},
    )  # fmt: skip
    return float(np.exp(found.x))


def loss_at(logits: np.ndarray, label: np.ndarray, temperature: float) -> float:
    """Mean cross-entropy of softmax(logits / temperature)."""
    log_p = log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return float(-log_p[np.arange(len(label)), label].mean())
