"""Stratified draws without sklearn, whose import takes a second.

Both functions use NumPy's `RandomState`, whose stream is frozen, and draw from it in the order of
sklearn's `StratifiedShuffleSplit`. So a seed gives the rows of `sklearn.model_selection.
train_test_split(..., stratify=label)`, whatever version of sklearn is installed, or none.
"""

from __future__ import annotations

import numpy as np


def hold_out(label: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(kept, held out) row numbers, ascending: `count` rows held out in proportion to the classes.

    >>> kept, held = hold_out(np.array([0, 0, 0, 0, 1, 1, 1, 1]), count=2, seed=0)
    >>> kept.tolist(), held.tolist()
    ([1, 2, 3, 4, 5, 6], [0, 7])

    Args:
        label: [N] integers, at least two rows of each class.
        count: rows to hold out, at least one per class, and as many left.
        seed: of the draw.
    """
    random = np.random.RandomState(seed)
    _, number, size = np.unique(label, return_inverse=True, return_counts=True)
    kept = _shares(size, len(label) - count, random)
    held = _shares(size - kept, count, random)
    chosen: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for each in range(len(size)):
        rows = np.flatnonzero(number == each)[random.permutation(size[each])]
        chosen[0].append(rows[: kept[each]])
        chosen[1].append(rows[kept[each] : kept[each] + held[each]])
    first, second = (np.sort(np.concatenate(rows)) for rows in chosen)
    return first, second


def _shares(size: np.ndarray, total: int, random: np.random.RandomState) -> np.ndarray:
    """`total` split over classes [C] in proportion to their `size`, by largest remainder.

    Among equal remainders, the classes that get one more are drawn at random.
    """
    exact = size / size.sum() * total
    shares = np.floor(exact)
    rest = exact - shares
    missing = int(total - shares.sum())
    for value in np.unique(rest)[::-1]:
        if missing == 0:
            break
        (equal,) = np.nonzero(rest == value)
        chosen = random.choice(equal, size=min(len(equal), missing), replace=False)
        shares[chosen] += 1
        missing -= len(chosen)
    return shares.astype(int)
