"""Rows held out are sklearn's, from the same seed."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from flaxcnn.data.stratified import hold_out


@settings(max_examples=200, deadline=None)
@given(st.data(), st.lists(st.integers(2, 40), min_size=2, max_size=12), st.integers(0, 2**32 - 1))
def test_the_same_rows_as_sklearn(data, sizes, seed):
    label = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    np.random.default_rng(seed).shuffle(label)
    count = data.draw(st.integers(len(sizes), len(label) - len(sizes)))
    kept, held = hold_out(label, count, seed)
    expected = train_test_split(
        np.arange(len(label)), test_size=count, stratify=label, random_state=seed
    )
    assert kept.tolist() == sorted(expected[0])
    assert held.tolist() == sorted(expected[1])


def test_in_proportion_to_the_classes():
    label = np.repeat([0, 1, 2], [100, 50, 10])
    kept, held = hold_out(label, 16, seed=3)
    assert np.bincount(label[held]).tolist() == [10, 5, 1]
    assert sorted([*kept, *held]) == list(range(160))
