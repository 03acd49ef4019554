"""Mixing and a function of one's own, through whole runs: the same bits wherever a row is drawn."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from small_runs import TINY

import flaxcnn
from flaxcnn.data import datasets
from flaxcnn.engine.devices import devices_used
from flaxcnn.engine.digest import tree_digest
from flaxcnn.engine.make_job import make_job
from flaxcnn.engine.train import fit
from flaxcnn.errors import ConfigError
from flaxcnn.recipe.augment import Augmentation, CutMix, Mixup, Policy, Shift
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten

pytestmark = pytest.mark.usefixtures("compile_once")

OWN = """
import jax
import jax.numpy as jnp


def dimmed(key, image, target, least=0.5):
    return image * jax.random.uniform(key, minval=least), target


def halves(key, image, target, partner_image, partner_target):
    left = jnp.arange(image.shape[1])[:, None] < image.shape[1] // 2
    return jnp.where(left, image, partner_image), (target + partner_target) / 2


def shorter(key, image, target):
    return image[1:], target


def labelled(key, image, target):
    return image, target.argmax()


def alone(key, image, target):
    return image


def undefined(key, image, target):
    return image / 0.0, target


def wrong(key, picture):
    return picture


def failing(key, image, target):
    return image @ target, target
"""
SIMPLE = dataclasses.replace(
    TINY, layers=(Flatten(), Dense(10)), epochs=2, batch_size=200, evaluate_train=False
)


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def chain():
    pairs = (Mixup(1.0), CutMix(), Augmentation("own.py:halves"))
    return (Shift(0.2, 0.2), Augmentation("own.py:dimmed", 0.5, least=0.2), Policy(pairs))


def digest_of(path, recipe):
    result = fit(recipe, datasets.load_for(recipe), path)
    return tree_digest(jax.device_get(result.state.params)), result


@pytest.mark.slow
@pytest.mark.parametrize("determinism", ["fast", "exact"])
def test_streamed_rows_have_the_partners_of_resident_ones(own, determinism):
    recipe = dataclasses.replace(SIMPLE, augment=chain(), determinism=determinism)
    held, result = digest_of(own / "held", recipe)
    streamed = dataclasses.replace(recipe, input="stream", data_memory=8 * 64 * 500)
    assert digest_of(own / "streamed", streamed)[0] == held
    assert (own / "held" / "source" / "own.py").read_text() == OWN
    assert 0 < result.history[-1]["train_accuracy"] < 1


@pytest.mark.slow
def test_any_number_of_devices_gives_the_same_bits(own):
    recipe = dataclasses.replace(
        SIMPLE, augment=chain(), determinism="exact", virtual_shards=4, epochs=1
    )
    digits, found = datasets.load("digits"), set()
    for devices in (1, 2, 4):
        with devices_used(jax.devices()[:devices]):
            job = make_job(recipe, digits)
            assert job.plan.sharding.devices == devices
            found.add(tree_digest(jax.device_get(job.train_epoch(job.init())[0].params)))
    assert len(found) == 1


@pytest.mark.slow
def test_a_study_has_the_bits_of_single_runs(own):
    recipe = dataclasses.replace(SIMPLE, augment=chain(), determinism="exact")
    rows = flaxcnn.study(recipe, range(2), study_dir=own / "study", how="map").rows
    alone = flaxcnn.train(dataclasses.replace(recipe, seed=1), run_dir=own / "one", verbose=False)
    assert rows[1]["params_digest"] == alone.summary["params_digest"]


@pytest.mark.slow
def test_a_run_goes_on_with_the_draws_of_the_epoch_it_is_in(own):
    recipe = dataclasses.replace(SIMPLE, augment=chain())
    whole, _ = digest_of(own / "whole", recipe)
    fit(dataclasses.replace(recipe, epochs=1), datasets.load("digits"), own / "half")
    again = fit(recipe, datasets.load("digits"), own / "half", resume=True)
    assert tree_digest(jax.device_get(again.state.params)) == whole


def test_a_recipe_names_the_function_and_its_source(own):
    recipe = dataclasses.replace(SIMPLE, augment=chain())
    plain = json.loads(json.dumps(recipe.to_dict()))
    assert Config.from_dict(plain) == recipe
    assert plain["augment"][1] == {
        "type": "augmentation", "function": "own.py:dimmed", "prob": 0.5, "least": 0.2,
        "source": recipe.augment[1].source,
    }  # fmt: skip
    before = recipe.fingerprint()
    (own / "own.py").write_text(OWN + "\n# changed\n")
    assert dataclasses.replace(recipe, augment=chain()).fingerprint() != before
    with pytest.raises(ConfigError, match="has changed since the recipe was made"):
        make_job(recipe, datasets.load("digits"))


def brighter(key, image, target):
    return image + 1.0, target


def test_a_function_given_in_python():
    kind = Augmentation(brighter)
    assert kind.function.endswith("test_augmented_runs.py:brighter")
    job = make_job(dataclasses.replace(SIMPLE, augment=(kind,)), datasets.load("digits"))
    assert np.isfinite(job.train_epoch(job.init())[1].loss).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shorter", r"must return image as float32 \[8, 8, 1\] \(got float32 \[7, 8, 1\]\)"),
        ("labelled", r"must return target as float32 \[10\] \(got int32 \[\]\)"),
        ("alone", r"must return \(image, target\) \(got ArrayImpl\)"),
        ("undefined", "returns image with values that are not finite"),
        ("wrong", "must have the parameters key, image, target, for pairs also partner_image"),
        ("failing", "raises TypeError"),
        ("missing", "no 'missing' there"),
    ],
)
def test_a_function_that_does_not_do_is_refused_at_once(own, name, message):
    recipe = dataclasses.replace(SIMPLE, augment=(Augmentation(f"own.py:{name}"),))
    with pytest.raises(ConfigError, match=message) as caught:
        fit(recipe, datasets.load("digits"), own / "run")
    assert "\n" not in str(caught.value)
    assert not (own / "run").exists()


def test_an_argument_that_the_function_lacks(own):
    recipe = dataclasses.replace(SIMPLE, augment=(Augmentation("own.py:dimmed", most=1),))
    with pytest.raises(ConfigError, match=r"one for each argument of the recipe \(most\)"):
        make_job(recipe, datasets.load("digits"))
