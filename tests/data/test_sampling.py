"""Classes made equally frequent: rows drawn evenly, weights of classes, and the notice of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from flaxcnn.data.arrays import Split, dataset
from flaxcnn.data.batches import Resident, Scaling, shuffled, take
from flaxcnn.data.resize import Draws
from flaxcnn.data.sampling import balanced, check_sampling, class_weights, imbalance
from flaxcnn.data.stream import Order, read_rows
from flaxcnn.errors import ConfigError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten

# Every example compiles for shapes of its own; a few sizes share one program.
COUNTS = st.sampled_from([(20, 5, 5), (1, 28, 1), (10, 10, 10), (30,), (2, 3, 25), (0, 29, 1)])
drawn = jax.jit(balanced)
BASE = Config("npz:made", (Flatten(), Dense(3)))


def labels(counts, seed=0):
    """Labels of 60 rows: those of `counts` at 30 rows spread among others, and their numbers."""
    random = np.random.default_rng(seed)
    rows = random.permutation(60)[:30].astype(np.int32)
    label = random.integers(0, 3, 60).astype(np.int32)
    label[rows] = np.repeat(np.arange(len(counts)), counts)
    return rows, label


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), counts=COUNTS)
def test_every_class_gives_as_many_rows_and_every_row_of_it_as_often(seed, counts):
    rows, label = labels(counts)
    number = np.asarray(drawn(jax.random.key(seed), rows, label))
    assert number.dtype == np.int32
    assert number.shape == rows.shape
    copy, row = np.divmod(number, 60)
    assert np.isin(row, rows).all()
    of_class = np.bincount(label[row], minlength=len(counts))[np.array(counts) > 0]
    assert of_class.max() - of_class.min() <= 1
    times = np.bincount(row, minlength=60)
    for each in range(len(counts)):
        own = times[rows[label[rows] == each]]
        assert not len(own) or own.max() - own.min() <= 1
    # copy 0, 1, 2, ... of each row: no number comes twice
    assert len(set(number.tolist())) == len(number)
    assert all(set(copy[row == r]) == set(range(n)) for r, n in enumerate(times))


def test_which_rows_of_a_large_class_are_drawn_changes_with_the_epoch():
    rows, label = labels((26, 2, 2))
    order = jax.jit(shuffled, static_argnums=(3, 4, 5))
    seeds, seen, orders = jnp.full(4, 7, jnp.uint32), set(), set()
    for epoch in range(40):  # of 26 rows 10 are drawn: one left out 40 times is no chance
        number, mask = order(seeds, jnp.int32(epoch), rows, 8, False, 1, label)
        seen |= set(np.asarray(number)[np.asarray(mask)] % 60)
        orders.add(tuple(np.asarray(number).ravel().tolist()))
    assert seen == set(rows.tolist())
    assert len(orders) == 40


def test_the_rows_of_an_epoch_do_not_depend_on_batches_or_on_runs_side_by_side():
    rows, label = labels((20, 5, 5))
    rows, label, orders = jnp.asarray(rows), jnp.asarray(label), {}
    for size, parts in ((8, 1), (7, 4)):
        number, mask = shuffled(
            jnp.full(4, 3, jnp.uint32), jnp.int32(2), rows, size, False, parts, label
        )
        orders[size] = np.asarray(number)[np.asarray(mask)]
    np.testing.assert_array_equal(orders[8], orders[7])
    side_by_side = jax.vmap(lambda seeds: shuffled(seeds, jnp.int32(2), rows, 8, label=label)[0])
    many = side_by_side(jnp.stack([jnp.full(4, s, jnp.uint32) for s in (1, 3)]))
    np.testing.assert_array_equal(many[1].ravel()[:30], orders[8])


def test_a_copy_has_the_pixels_and_label_of_its_row_and_a_number_of_its_own():
    image = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    data = Resident(image, np.arange(6, dtype=np.int32), Scaling(0.0, 1.0))
    batch = take(data, jnp.array([5, 11, 2], jnp.int32), jnp.ones(3, bool), copies=True)
    assert batch.image.ravel().tolist() == batch.label.tolist() == [5, 5, 2]
    assert batch.row.tolist() == [5, 11, 2]
    pixels = np.empty((3, 1, 1, 1), np.uint8)
    read_rows([image[:4], image[4:]], Order(np.array([5, 11, 2], np.int32), Draws(0, 0)), pixels)
    assert pixels.ravel().tolist() == [5, 5, 2]


def made(counts, classes=("cat", "dog", "owl")):
    label = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    split = Split(np.zeros((len(label), 1, 1, 1), np.uint8), label)
    return dataset("made", split, split, classes[: len(counts)]), np.arange(len(label))


@pytest.mark.parametrize("counts", [(20, 5, 5), (1, 28, 1), (10, 10, 10)])
def test_balanced_weights_are_those_of_scikit_learn(counts):
    data, rows = made(counts)
    rows = rows[1 if counts[0] > 1 else 0 :]  # weights are of the training rows, not of all
    found = class_weights(dataclasses.replace(BASE, class_weight="balanced"), data, rows)
    label = data.train.label[rows]
    by_sklearn = compute_class_weight("balanced", classes=np.arange(3), y=label)
    np.testing.assert_allclose(found, by_sklearn, rtol=1e-7)  # rounded to float32 once
    assert found.dtype == np.float32


def test_weights_by_name_or_number():
    data, rows = made((3, 3, 3))
    given = dataclasses.replace(BASE, class_weight={"dog": 2, 2: 0.5})
    assert class_weights(given, data, rows).tolist() == [1, 2, 0.5]
    assert given == dataclasses.replace(BASE, class_weight={"2": 0.5, "dog": 2.0})
    assert Config.from_dict(given.to_dict()) == given
    assert class_weights(BASE, data, rows) is None


@pytest.mark.parametrize(("weight", "message"), [
    ({"cow": 1}, "made has no class 'cow'; give a name, or a number below 3"),
    ({"owll": 1}, "did you mean 'owl'"),
    ({3: 1}, "made has no class '3'"),
    ({"dog": 1, 1: 2}, "'1' and 'dog' are one class"),
    ({0: 0, 1: 0, 2: 0}, "must be above 0 for some class"),
])  # fmt: skip
def test_weights_of_classes_that_are_not_there(weight, message):
    with pytest.raises(ConfigError, match=message):
        class_weights(dataclasses.replace(BASE, class_weight=weight), *made((3, 3, 3)))


@pytest.mark.parametrize(("changes", "message"), [
    ({"class_weight": {"cat": -1}}, "class_weight.cat must be a number of at least 0"),
    ({"class_weight": {"cat": "2"}}, "class_weight.cat must be a number of at least 0"),
    ({"class_weight": {}}, "class_weight must give the weight of a class"),
    ({"class_weight": "balanced", "sampling": "balanced"}, "use one of them"),
    ({"class_weight": "balance"}, "did you mean 'balanced'"),
    ({"sampling": "balance"}, "sampling must be balanced or none"),
])  # fmt: skip
def test_settings_that_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(BASE, **changes)


def test_balanced_weights_need_rows_of_every_class():
    data, _ = made((3, 3, 3))
    with pytest.raises(ConfigError, match="none is of class 'owl'"):
        class_weights(dataclasses.replace(BASE, class_weight="balanced"), data, np.arange(6))


def test_copies_that_cannot_be_numbered_are_refused():
    """Only the labels are looked at, so that the test needs no memory for pixels."""
    label = np.zeros(3_000_000, np.int32)
    label[0] = 1

    class Large:
        train = test = label
        classes, num_classes = ("cat", "dog"), 2

    Large.train = type("S", (), {"label": label, "__len__": lambda _: len(label)})()
    balanced_recipe = dataclasses.replace(BASE, sampling="balanced")
    with pytest.raises(ConfigError, match="1 rows of class 'dog' 1500000 times"):
        check_sampling(balanced_recipe, Large, np.arange(len(label)))
    check_sampling(balanced_recipe, *made((3, 3, 3)))


def test_imbalance_is_told_from_three_to_one_on():
    data, rows = made((9, 3, 4))
    text = imbalance(BASE, data, rows)
    assert text.startswith("classes are imbalanced: 'dog' has 3 training rows, 'cat' 9;")
    assert imbalance(BASE, *made((8, 3, 4))) is None
    for remedy in ({"sampling": "balanced"}, {"class_weight": "balanced"}):
        assert imbalance(dataclasses.replace(BASE, **remedy), data, rows) is None
