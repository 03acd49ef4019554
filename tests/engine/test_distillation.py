"""A network that learns from another: the loss, its gradients, and the promises of a run."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import log_softmax
from small_runs import TINY
from test_step import (
    DATA,
    HYPERS,
    PLAIN,
    batch,
    compiled_gradients,
    plan_of,
    start,
)

import flaxcnn
from flaxcnn.engine.make_job import make_job
from flaxcnn.engine.saved import evaluate_run, open_run
from flaxcnn.engine.train import fit
from flaxcnn.errors import ConfigError
from flaxcnn.model.distillation import divergence
from flaxcnn.recipe.layers import Dense, Flatten
from flaxcnn.recipe.teachers import Distill

pytestmark = pytest.mark.usefixtures("compile_once")
STUDENT = dataclasses.replace(
    TINY, layers=(Flatten(), Dense(10)), epochs=3, seed=5, determinism="exact"
)
RANDOM = np.random.default_rng(0)
CLOSE = {"rtol": 2e-5, "atol": 1e-6}  # float32 sums of a few numbers of about 1


def by_hand(logits, teacher, temperature):
    said, meant = (log_softmax(x.astype(np.float64) / temperature, 1) for x in (logits, teacher))
    return temperature**2 * (np.exp(meant) * (meant - said)).sum(1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_divergence_is_its_definition(temperature):
    logits, teacher = RANDOM.normal(size=(2, 7, 5)).astype(np.float32) * 3
    found = divergence(logits, teacher, jnp.float32(temperature))
    np.testing.assert_allclose(found, by_hand(logits, teacher, temperature), **CLOSE)
    np.testing.assert_allclose(divergence(teacher, teacher, jnp.float32(temperature)), 0, atol=1e-5)
    of = lambda x: divergence(x, teacher, jnp.float32(temperature)).sum()  # noqa: E731
    check_grads(of, (logits,), order=1, modes=["rev"], rtol=0.03)


def test_the_loss_of_a_batch_is_of_labels_and_teacher():
    """With padding, and a teacher of another standardisation."""
    plain = plan_of(PLAIN, rows=5, batch_size=8)
    plan, state = dataclasses.replace(plain, teacher=plain.model), start(plain)
    variables = start(plain, seed=3)
    teacher = {
        "variables": {"params": variables.params, "batch_stats": {}},
        "mean": jnp.full((1, 1, 1), 9.0), "scale": jnp.full((1, 1, 1), 100.0),
    }  # fmt: skip
    scaling = dataclasses.replace(DATA.scaling, teacher=teacher)
    hypers = HYPERS.replace(
        rules={"distill.temperature": jnp.float32(2.0), "distill.weight": jnp.float32(0.75)}
    )
    found = compiled_gradients(plan, state, hypers, scaling, batch(5, 8)).metrics
    hard = compiled_gradients(plain, state, HYPERS, DATA.scaling, batch(5, 8)).metrics
    logits = lambda params, image: np.asarray(plain.model.apply(  # noqa: E731
        {"params": params, "batch_stats": {}}, image, train=False, rows=None)[0])  # fmt: skip
    pixels = np.asarray(batch(5).image, np.float32)
    soft = by_hand(logits(state.params, pixels / 255),
                   logits(variables.params, (pixels - 9) / 100), 2.0)  # fmt: skip
    np.testing.assert_allclose(found.loss, 0.25 * hard.loss + 0.75 * soft.sum(), **CLOSE)
    assert (found.hits, found.count) == (hard.hits, hard.count)


@pytest.fixture(scope="module")
def student(trained, digits, tmp_path_factory):
    config = dataclasses.replace(STUDENT, distill=Distill(str(trained.path)))
    return fit(config, digits, tmp_path_factory.mktemp("student") / "run")


@pytest.mark.slow
def test_a_student_is_another_network_and_a_reproducible_run(student, trained, digits, tmp_path):
    assert student.recipe.distill.digest == trained.summary["params_digest"]
    plain = fit(STUDENT, digits, tmp_path / "plain")
    assert plain.summary["params_digest"] != student.summary["params_digest"]
    fit(dataclasses.replace(student.recipe, epochs=1), digits, tmp_path / "run")
    resumed = fit(student.recipe, digits, tmp_path / "run", resume=True)
    assert resumed.summary["params_digest"] == student.summary["params_digest"]
    with_all = dataclasses.replace(student.recipe, distill=dataclasses.replace(
        student.recipe.distill, weight=0.0))  # fmt: skip
    assert fit(with_all, digits, tmp_path / "none").summary["test_accuracy"] == pytest.approx(
        plain.summary["test_accuracy"], abs=0.01
    )


@pytest.mark.slow
def test_in_a_study_each_has_the_bits_it_has_alone(student, trained, tmp_path):
    """Temperatures share a program; another teacher does not."""
    other = Distill(str(student.path))
    rows = flaxcnn.study(
        dataclasses.replace(student.recipe, evaluate_train=False), [5],
        grid={"distill.temperature": [4.0, 1.0], "distill.run": [str(trained.path), other.run],
              "distill.digest": [""]},
        study_dir=tmp_path / "study", how="map", verbose=False,
    ).rows  # fmt: skip
    alone = {row["setting"]["distill.temperature"]: row["params_digest"] for row in rows
             if row["setting"]["distill.run"] == str(trained.path)}  # fmt: skip
    assert alone[4.0] == student.summary["params_digest"]
    assert len({row["params_digest"] for row in rows}) == 4


def test_a_student_stands_without_its_teacher(student, trained, digits, tmp_path):
    teacher = shutil.copytree(trained.path, tmp_path / "teacher")
    config = dataclasses.replace(STUDENT, epochs=1, distill=Distill(str(teacher)))
    run = fit(config, digits, tmp_path / "run")
    shutil.rmtree(teacher)
    opened = open_run(run.path)
    assert evaluate_run(opened)["accuracy"] == run.summary["test_accuracy"]
    assert jax.tree.leaves(opened.state.params)


def test_what_cannot_be_is_said_in_one_sentence(trained, digits, monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=r"distill\.run must be the folder of a finished run"):
        Distill("nowhere")
    with pytest.raises(ConfigError, match=r"distill\.weight must be from 0 to 1"):
        Distill(str(trained.path), weight=1.5)
    changed = dataclasses.replace(STUDENT, distill=Distill(str(trained.path), digest="0" * 64))
    with pytest.raises(ConfigError, match="has changed since the recipe was made"):
        make_job(changed, digits)
    few = dataclasses.replace(STUDENT, distill=Distill(str(trained.path)), dataset="npz:few.npz")
    small = dataclasses.replace(digits, classes=digits.classes[:9])
    with pytest.raises(ConfigError, match=r"trained on images \[8, 8, 1\] of 10 classes, and "):
        make_job(dataclasses.replace(few, layers=(Flatten(), Dense(9))), small)
