"""One step in two halves, whole epochs of it, and evaluation: sums over true rows, nothing else."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from flaxcnn.data.batches import Scaling, resident, take
from flaxcnn.data.splits import steps_per_epoch
from flaxcnn.engine import epoch as programs
from flaxcnn.engine import step as heart
from flaxcnn.engine.metrics import MetricSums, batch_sums, finalize
from flaxcnn.engine.sharding import BatchSharding
from flaxcnn.engine.step import Hypers, Plan, gradients, init_state, update
from flaxcnn.model.cnn import CNN, Network
from flaxcnn.recipe.augment import Flip, Shift
from flaxcnn.recipe.layers import (
    Activation,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    MaxPool,
    Residual,
)
from flaxcnn.recipe.optimizers import SGD, Adam, Constant, TimeDecay

# Sums in another order: a few roundings of numbers of about 1.
CLOSE = {"rtol": 2e-5, "atol": 2e-6}
SHAPE, CLASSES = (6, 6, 1), 4
# No convolutions where none is needed: most of the time of these tests is compiling.
PLAIN = (Flatten(), Dense(6, "tanh"), Dense(CLASSES))
NORMED = (Conv(4, 3), BatchNorm(), Activation("relu"), MaxPool(2), Flatten(), Dense(CLASSES))
DATA = jax.device_put(resident(
    [np.random.default_rng(0).integers(0, 256, (40, *SHAPE), np.uint8)],
    [(np.arange(40) % CLASSES).astype(np.int32)],
    Scaling(np.zeros((1, 1, 1), np.float32), np.full((1, 1, 1), 255, np.float32)),
))  # fmt: skip
NUMBERS = {"weight_decay": jnp.float32(0), "momentum": jnp.float32(0.9)}
HYPERS = Hypers(jnp.float32(0.1), NUMBERS, jnp.float32(0), jnp.zeros(0))


def in_batches(plan, rows):
    """Row numbers and mask of the batches in which `rows` are evaluated."""
    return programs.eval_batches(rows.astype(np.int32), programs.eval_width(plan, len(rows)))


def plan_of(layers, rows=40, batch_size=8, **kwargs):
    steps = steps_per_epoch(rows, batch_size)
    settings = {"optimizer": SGD(0.9), "schedule": Constant(), "augment": (), "smooth": False}
    return Plan(
        Network(CNN(layers)), **{**settings, **kwargs}, batch_size=batch_size,
        drop_last=False, train_rows=rows, steps_per_epoch=steps, total_steps=steps,
    )  # fmt: skip


def seeds(seed):
    return jnp.full(4, seed, jnp.uint32)


def start(plan, seed=0):
    state = jax.jit(init_state, static_argnums=(0, 1))(plan, SHAPE, seeds(seed), HYPERS)
    # At once and not zero, so that the moving statistics take part in what is compared.
    return state.replace(batch_stats=jax.tree.map(lambda s: s + 0.25, state.batch_stats))


def batch(rows, size=None):
    """Rows 0 .. rows - 1, padded to `size` with row 17, which is none of them."""
    size = rows if size is None else size
    true = np.arange(size) < rows
    return take(
        DATA, jnp.asarray(np.where(true, np.arange(size), 17), jnp.int32), jnp.asarray(true)
    )


compiled_gradients = jax.jit(gradients, static_argnums=0)
compiled_update = jax.jit(update, static_argnums=0)
compiled_step = jax.jit(heart.train_step, static_argnums=0)
compiled_epoch = jax.jit(programs.train_epoch, static_argnums=0)
evaluated = jax.jit(programs.evaluate, static_argnums=0)


def assert_close(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), one, other)


@pytest.mark.parametrize("layers", [PLAIN, NORMED])
def test_padding_counts_for_nothing(layers):
    """Five true rows and three of padding give the update of five: of weights and statistics."""
    padded, whole = plan_of(layers, 5, 8), plan_of(layers, 5, 5)
    state = start(whole)
    results = [
        compiled_step(plan, state, HYPERS, DATA.scaling, rows)
        for plan, rows in ((padded, batch(5, 8)), (whole, batch(5)))
    ]
    assert_close(*results)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), results[0][0].params, state.params)
    assert max(jax.tree.leaves(moved)) > 1e-3  # the comparison is one of real updates


def test_sums_of_parts_add_up_to_the_sums_of_the_whole():
    """What every form of parallelism rests on (a model with batch statistics sees its parts)."""
    plan = plan_of(PLAIN)
    state = start(plan)
    whole = compiled_gradients(plan, state, HYPERS, DATA.scaling, batch(8))
    parts = [
        compiled_gradients(
            plan, state, HYPERS, DATA.scaling, jax.tree.map(lambda a, s=s: a[s], batch(8))
        )
        for s in (slice(0, 4), slice(4, 8))
    ]
    assert_close(jax.tree.map(jnp.add, *parts), whole)
    assert whole.metrics.count == 8


@pytest.mark.parametrize("true_rows", [8, 5])
def test_moving_statistics_of_a_whole_batch_are_taken_as_they_are(true_rows):
    """Off CPU, where nothing is added to them: no kernels that multiply and divide by the count."""
    plans = [plan_of(NORMED, sharding=BatchSharding(platform=on)) for on in ("cpu", "gpu", "tpu")]
    assert [plan.sharding.adds for plan in plans] == [True, False, False]
    state = start(plans[0])
    first, *others = (
        compiled_step(plan, state, HYPERS, DATA.scaling, batch(true_rows, 8))[0] for plan in plans
    )
    for other in others:
        assert_close(other.batch_stats, first.batch_stats)
    assert BatchSharding(platform="gpu", accumulate=2).adds
    assert BatchSharding(platform="gpu", devices=2).adds


def test_update_divides_once_and_moves_by_the_scheduled_rate():
    plan = plan_of(PLAIN, optimizer=SGD(weight_decay=0.5), schedule=TimeDecay(1.0))
    state = start(plan).replace(step=jnp.int32(3))
    sums = compiled_gradients(plan, state, HYPERS, DATA.scaling, batch(5, 8))
    new = compiled_update(
        plan, state, HYPERS.replace(optimizer={**NUMBERS, "weight_decay": jnp.float32(0.5)}), sums
    )
    rate = 0.1 / (1 + 3)
    expected = jax.tree.map(
        lambda p, g: p - rate * g / 5 - rate * 0.5 * p, state.params, sums.grads
    )
    assert_close(new.params, expected)
    assert new.step == 4


def test_metrics_against_numpy():
    random = np.random.default_rng(0)
    logits, label = 3 * random.normal(size=(9, 5)), random.integers(0, 5, 9)
    mask = np.arange(9) < 7
    given = jnp.asarray(logits, jnp.float32), jnp.asarray(label, jnp.int32), jnp.asarray(mask)
    log_p = logits - special.logsumexp(logits, axis=1, keepdims=True)
    for smoothing in (None, 0.0, 0.1, 0.9):
        s = smoothing or 0.0
        target = (1 - s) * np.eye(5)[label] + s / 5
        found = batch_sums(*given, None if smoothing is None else jnp.float32(smoothing))
        assert found.loss == pytest.approx(-(target * log_p).sum(1)[mask].sum(), rel=1e-6)
        assert float(found.hits) == (logits.argmax(1) == label)[mask].sum()
        assert found.count == 7
    target = optax.smooth_labels(jnp.eye(5)[given[1]], jnp.float32(0.1))
    by_optax = optax.losses.softmax_cross_entropy(given[0], target)
    smoothed = batch_sums(*given, jnp.float32(0.1)).loss
    assert smoothed == pytest.approx(float(by_optax[:7].sum()), rel=1e-6)


def test_a_target_may_be_a_distribution():
    """Smoothed as a label is; hits are counted against the label all the same."""
    random = np.random.default_rng(1)
    logits = jnp.asarray(3 * random.normal(size=(9, 5)), jnp.float32)
    label, mask = jnp.asarray(random.integers(0, 5, 9), jnp.int32), jnp.arange(9) < 7
    target = random.dirichlet(np.ones(5), 9)
    log_p = special.log_softmax(np.asarray(logits, np.float64), axis=1)
    for smoothing in (None, 0.1):
        smooth = None if smoothing is None else jnp.float32(smoothing)
        given = jnp.asarray(target, jnp.float32)
        found = batch_sums(logits, label, mask, smooth, target=given)
        smoothed = (1 - (smoothing or 0)) * target + (smoothing or 0) / 5
        assert found.loss == pytest.approx(-(smoothed * log_p).sum(1)[mask].sum(), rel=1e-6)
        assert float(found.hits) == int((logits.argmax(1) == label)[mask].sum())
        # A distribution that has all its weight on the label is the label.
        certain = batch_sums(
            logits, label, mask, smooth, target=jax.nn.one_hot(label, 5, dtype=jnp.float32)
        )
        plain = batch_sums(logits, label, mask, smooth)
        assert certain.loss == pytest.approx(float(plain.loss), rel=1e-6)


def test_finalize_divides_the_sums_once():
    """Not the mean of batch means, which would weigh the rows of a short last batch more."""
    sums = MetricSums(np.array([8.0, 3.0]), np.array([4.0, 1.0]), np.array([8.0, 1.0]))
    assert finalize(sums) == {"loss": 11 / 9, "accuracy": 5 / 9}
    # Added in float64: float32 would lose the ones beside 2^24.
    many = np.concatenate([[2.0**24], np.ones(3000)]).astype(np.float32)
    assert finalize(MetricSums(many, many, many))["loss"] == 1.0
    assert finalize(MetricSums(many, np.ones(3001), many))["accuracy"] == 3001 / (2**24 + 3000)


def test_augmentation_is_drawn_by_seed_epoch_and_row():
    """Not by the place in the batch, nor by the step: any division of an epoch draws the same."""
    plan = plan_of(PLAIN, augment=(Shift(0.4, 0.4), Flip()))
    state, rows = start(plan), batch(8)
    backwards = jax.tree.map(lambda a: a[::-1], rows)

    def loss(step=0, seed=0, rows=rows):
        now = state.replace(step=jnp.int32(step), seeds=seeds(seed))
        return float(compiled_gradients(plan, now, HYPERS, DATA.scaling, rows).metrics.loss)

    assert loss(rows=backwards) == pytest.approx(loss(), rel=1e-5)
    assert loss(step=plan.steps_per_epoch - 1) == loss()
    others = (
        loss(step=plan.steps_per_epoch),
        loss(seed=1),
        loss(rows=rows.replace(row=rows.row + 8)),
    )
    for other in others:
        assert other != pytest.approx(loss(), rel=1e-3)


def test_label_smoothing_changes_the_loss_only_where_the_recipe_has_it():
    smooth, plain = (plan_of(PLAIN, smooth=s) for s in (True, False))
    state, hypers = start(plain), HYPERS.replace(label_smoothing=jnp.float32(0.2))
    losses = [float(compiled_gradients(p, state, h, DATA.scaling, batch(8)).metrics.loss)
              for p, h in ((smooth, hypers), (smooth, HYPERS), (plain, hypers))]  # fmt: skip
    assert losses[1] == pytest.approx(losses[2], rel=1e-6)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(("rows", "size"), [(1, 500), (40, 40), (40, 16)])
def test_evaluation_in_batches_equals_the_whole(rows, size, monkeypatch):
    """Every row once, whether or not the batch divides them."""
    plan = plan_of(NORMED)
    state, numbers = start(plan), jnp.asarray(np.arange(40)[::-1][:rows].copy(), jnp.int32)
    image = np.asarray(DATA.image)[numbers].astype(np.float32) / 255
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = jax.jit(functools.partial(plan.model.module.apply, train=False))(variables, image)
    whole = finalize(batch_sums(logits, DATA.label[numbers], jnp.ones(rows, bool)))
    monkeypatch.setattr(programs, "EVAL_ROWS", {"cpu": size})

    evaluate = jax.jit(lambda state, *now: programs.evaluate(plan, state, DATA, *now))
    sums, found = evaluate(state, *in_batches(plan, np.asarray(numbers)))
    assert sums.count.sum() == rows
    assert finalize(sums) == pytest.approx(whole, rel=1e-5)
    np.testing.assert_allclose(found.reshape(-1, CLASSES)[:rows], logits, **CLOSE)


@pytest.mark.parametrize(("rows", "steps"), [(40, 3), (40, 2), (40, 1), (7, 2), (1, 5)])
def test_parts_of_an_evaluation_have_every_row_once(rows, steps):
    """One program, of `steps` batches, evaluates splits of any size."""
    numbers = np.arange(100, 100 + rows, dtype=np.int32)
    parts = list(programs.eval_parts(numbers, 16, steps))
    assert all(row.shape == mask.shape == (steps, 16) for row, mask, _ in parts)
    assert np.concatenate([row[mask] for row, mask, _ in parts]).tolist() == numbers.tolist()
    assert sum(count for *_, count in parts) == -(-rows // 16)
    assert not any(mask[count:].any() for _, mask, count in parts)


@pytest.mark.slow
def test_an_epoch_is_its_steps_and_is_traced_once(monkeypatch):
    """A second trace would mean a second compilation in the middle of every run."""
    plan = plan_of((Flatten(), Dropout(0.2), Dense(8, "tanh"), BatchNorm(), Dense(CLASSES)),
                   batch_size=16, augment=(Shift(0.2, 0.2), Flip()))  # fmt: skip
    hypers, traces = HYPERS.replace(dropout=jnp.array([0.2], jnp.float32)), []
    inner = heart.train_step
    monkeypatch.setattr(programs, "train_step", lambda *a: traces.append(a) or inner(*a))
    run = jax.jit(lambda state, rows: programs.train_epoch(plan, state, hypers, DATA, rows))
    rows = jnp.arange(40, dtype=jnp.int32)
    state, other = start(plan, 1), start(plan, 2)
    for _ in range(3):
        state, sums = run(state, rows)
        other, _ = run(other, rows)
    assert len(traces) == 1
    assert state.step == 9
    assert sums.count.tolist() == [16, 16, 8]
    # The same three epochs, one step at a time.
    one = jax.jit(functools.partial(inner, plan))
    again = start(plan, 1)
    for epoch in range(3):
        order = programs.shuffled(again.seeds, jnp.int32(epoch), rows, 16)
        for now in zip(*order, strict=True):
            again, _ = one(again, hypers, DATA.scaling, take(DATA, *now))
    assert_close(state, again)


def test_training_learns_its_rows():
    plan = plan_of(NORMED, batch_size=10, optimizer=Adam())
    state, rows = start(plan), jnp.arange(40, dtype=jnp.int32)
    hypers = HYPERS.replace(learning_rate=jnp.float32(0.01))
    sums, _ = evaluated(plan, state, DATA, *in_batches(plan, np.asarray(rows)))
    first = finalize(sums)
    for _ in range(60):
        state, sums = compiled_epoch(plan, state, hypers, DATA, rows)
    assert finalize(sums)["loss"] < 0.5 * first["loss"]
    assert finalize(sums)["accuracy"] > 0.8


def test_alive_units_finds_the_dead_ones():
    """Bias -1000: unit 2 of the convolution and the dense unit 0 never give a value above 0."""
    layers = (Conv(4, 3, activation="relu"), Residual((Conv(4, 1),)), Activation("relu"), Flatten(),
              Dense(3, "relu"), Dense(CLASSES))  # fmt: skip
    plan = plan_of(layers)
    state = start(plan)
    params = jax.tree.map(lambda p: jnp.abs(p) + 0.01, state.params)
    params["conv2d"]["bias"] = params["conv2d"]["bias"].at[2].set(-1000)
    params["dense"]["bias"] = params["dense"]["bias"].at[0].set(-1000)
    alive = programs.alive_units(
        plan, dataclasses.replace(state, params=params), DATA, *in_batches(plan, np.arange(7))
    )
    assert {name: units.tolist() for name, units in alive.items()} == {
        "conv2d": [True, True, False, True],
        "residual": [True] * 4,
        "activation": [True] * 4,
        "dense": [False, True, True],
    }


def test_a_unit_is_alive_if_any_row_of_any_batch_wakes_it(monkeypatch):
    plan = plan_of((Flatten(), Dense(2, "relu"), Dense(CLASSES)))
    state = start(plan)
    kernel = np.zeros((36, 2), np.float32)
    kernel[0, 0] = kernel[1, 1] = 1
    image = np.zeros((5, *SHAPE), np.uint8)
    image[1, 0, 0] = 255  # row 1 alone wakes unit 0; nothing wakes unit 1
    data = DATA.replace(image=jnp.asarray(image), label=DATA.label[:5])
    params = {**state.params, "dense": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(2)}}
    monkeypatch.setattr(programs, "EVAL_ROWS", {"cpu": 2})
    for rows, expected in (
        ([0, 1, 2, 3, 4], [True, False]),
        ([4, 3, 2, 1, 0], [True, False]),
        ([0, 2, 3, 4], [False, False]),
    ):
        found = programs.alive_units(
            plan, state.replace(params=params), data, *in_batches(plan, np.array(rows))
        )
        assert found["dense"].tolist() == expected
