"""Class weights and evenly drawn classes in training: what they change, and what they do not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_runs import TINY

from flaxcnn.data.arrays import Split, dataset
from flaxcnn.engine.make_job import make_job, make_resident_job
from flaxcnn.engine.metrics import batch_sums, finalize
from flaxcnn.engine.train import fit
from flaxcnn.recipe.augment import Shift
from flaxcnn.recipe.layers import Dense, Dropout, Flatten
from flaxcnn.records.files import read_json
from flaxcnn.studies.events import Listener
from flaxcnn.studies.groups import grouped
from flaxcnn.studies.plan import plan_runs
from flaxcnn.studies.study import study

pytestmark = pytest.mark.usefixtures("compile_once")

# Small, since most of the time is compiling; shifts, so that copies of a row differ
RECIPE = dataclasses.replace(
    TINY, layers=(Flatten(), Dropout(0.2), Dense(10)), augment=(Shift(),), epochs=2,
    determinism="exact", evaluate_train=False,
)  # fmt: skip
BOTH = dataclasses.replace(RECIPE, sampling="balanced", class_weight={"3": 2.0, "7": 0.5})
WEIGHTED = dataclasses.replace(RECIPE, class_weight="balanced")


@pytest.fixture(scope="module")
def uneven(digits):
    """Digits with few threes and fours."""
    rare = np.isin(digits.train.label, (3, 4))
    kept = ~rare | (np.cumsum(rare) <= 20)
    train = Split(np.asarray(digits.train.image)[kept], digits.train.label[kept])
    return dataset("uneven", train, digits.test, digits.classes)


def trained(job, epochs=2):
    state = job.init()
    for _ in range(epochs):
        state, sums = job.train_epoch(state)
    job.close()
    return jax.device_get(state.params), finalize(jax.device_get(sums))


def assert_same_bits(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_weight_multiplies_the_loss_of_its_class_and_nothing_else():
    """Against the gradient of the sum written down, divided by rows, as in Keras."""
    random = np.random.default_rng(0)
    logits = jnp.asarray(random.normal(size=(6, 3)), jnp.float32)
    label, weight = jnp.array([0, 1, 2, 0, 1, 1]), jnp.array([0.5, 2.0, 0.0])
    mask = jnp.array([True] * 5 + [False])

    def by_hand(logits):
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return (loss * jnp.array([0.5, 2.0, 0.0, 0.5, 2.0, 0.0])).sum()

    def ours(logits):
        return batch_sums(logits, label, mask, class_weight=weight).loss

    np.testing.assert_allclose(ours(logits), by_hand(logits), rtol=1e-6)  # a few float32 sums
    np.testing.assert_allclose(jax.grad(ours)(logits), jax.grad(by_hand)(logits), atol=1e-6)
    plain, weighted = (batch_sums(logits, label, mask, class_weight=w) for w in (None, weight))
    assert (plain.hits, plain.count) == (weighted.hits, weighted.count)
    assert weighted.count == 5
    hot = jax.nn.one_hot(label, 3)
    mixed = batch_sums(logits, label, mask, target=hot, class_weight=weight)
    np.testing.assert_allclose(mixed.loss, weighted.loss, rtol=1e-6)


@pytest.mark.slow
def test_the_same_bits_on_any_number_of_devices_and_in_a_study(uneven):
    shared = dataclasses.replace(BOTH, virtual_shards=4)
    one = make_resident_job(shared, uneven, jax.devices()[1])
    four = make_job(shared, uneven)
    assert (one.plan.sharding.devices, four.plan.sharding.devices) == (1, 4)
    alone = trained(one)
    assert_same_bits(alone, trained(four))
    # The job of a study, which had another recipe before
    before = make_resident_job(WEIGHTED, uneven, jax.devices()[1])
    assert_same_bits(alone, trained(before.with_plan(one.plan, shared)))


@pytest.mark.slow
def test_the_same_bits_streamed(uneven):
    streamed = dataclasses.replace(BOTH, input="stream", data_memory=8 * 64 * 250)
    assert_same_bits(*(trained(make_job(recipe, uneven)) for recipe in (BOTH, streamed)))


def test_runs_of_a_study_share_programs_where_they_may(uneven):
    def count(base, grid):
        return len(grouped(plan_runs(base, [0, 1], grid), uneven))

    assert count(BOTH, {"learning_rate": [0.1, 0.2]}) == 1
    assert count(BOTH, {"sampling": ["balanced", None]}) == 2  # compiled in
    assert count(RECIPE, {"class_weight": ["balanced", None]}) == 2  # of one data set on the device


def test_weights_follow_the_training_rows_of_each_run(uneven):
    folds = [dataclasses.replace(WEIGHTED, split_seed=s, validation=700) for s in (0, 1)]
    first = make_resident_job(folds[0], uneven, jax.devices()[0])
    weights = [
        np.asarray(job.data.scaling.class_weight) for job in (first, first.with_rows(folds[1]))
    ]
    for weight, recipe in zip(weights, folds, strict=True):
        rows = make_resident_job(recipe, uneven, jax.devices()[0]).rows.train
        count = np.bincount(uneven.train.label[rows], minlength=10)
        np.testing.assert_allclose(weight, len(rows) / (10 * count), rtol=1e-6)


def test_evaluation_knows_no_weights(uneven):
    weighted, plain = make_job(WEIGHTED, uneven), make_job(RECIPE, uneven)
    state = plain.init()
    for split in ("train", "validation", "test"):
        assert_same_bits(*(jax.device_get(j.evaluate(state, split)) for j in (weighted, plain)))


def test_even_classes_keep_the_number_of_steps_and_the_weights_differ(uneven):
    (even, sums), (plain, _) = (trained(make_job(r, uneven)) for r in (BOTH, RECIPE))
    assert (
        make_job(BOTH, uneven).plan.steps_per_epoch == make_job(RECIPE, uneven).plan.steps_per_epoch
    )
    differ = jax.tree.map(lambda a, b: np.abs(a - b).max() > 0, even, plain)
    assert all(jax.tree.leaves(differ))
    assert 0 < sums["accuracy"] < 1


def test_a_run_says_that_classes_are_imbalanced_and_records_it(uneven, tmp_path):
    notes = []
    fit(dataclasses.replace(RECIPE, epochs=1), uneven, tmp_path / "a", on_note=notes.append)
    data = read_json(tmp_path / "a" / "data.json")
    (note,) = (text for text in notes if "imbalanced" in text)
    assert data["imbalance"] == note
    assert sum(data["class_rows"]) == data["rows"]["train"]
    assert "class_weight" not in data
    notes.clear()
    fit(dataclasses.replace(WEIGHTED, epochs=1), uneven, tmp_path / "b", on_note=notes.append)
    data = read_json(tmp_path / "b" / "data.json")
    assert not [text for text in notes if "imbalanced" in text]
    assert "imbalance" not in data
    assert min(data["class_weight"]) < 1 < max(data["class_weight"])


@pytest.mark.slow
def test_a_study_says_it_once(uneven, tmp_path):
    notes = []
    recipe = dataclasses.replace(RECIPE, epochs=1)
    study(
        recipe, [0, 1], study_dir=tmp_path / "s", dataset=uneven, tell=Listener(note=notes.append)
    )
    assert len([text for text in notes if "imbalanced" in text]) == 1
