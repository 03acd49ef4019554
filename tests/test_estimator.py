"""FlaxCNNClassifier is a scikit-learn classifier, and its training is the engine's."""

import pickle
from pathlib import Path

import jax
import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from flaxcnn import FlaxCNNClassifier, estimator
from flaxcnn.data.datasets import load
from flaxcnn.engine import arrays
from flaxcnn.engine.train import fit
from flaxcnn.errors import ConfigError, DivergedError, FlaxcnnError
from flaxcnn.recipe.catalog import find
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import BatchNorm, Conv, Dense, Dropout, Flatten, MaxPool
from flaxcnn.recipe.optimizers import SGD

PAGE = Path(__file__).resolve().parents[1] / "docs" / "howto" / "sklearn.md"
X, Y = load_digits(return_X_y=True)
X, Y = X[:300], Y[:300]
SMALL = (Flatten(), Dense(16, "relu"), Dense(10))
NET = (
    Conv(4, 3, activation="relu"), BatchNorm(), MaxPool(2), Flatten(), Dropout(0.2), Dense(10),
)  # fmt: skip
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": "float32: its weighted and its repeated rows "
    "make one batch each, of the same sums in another order, and the probabilities differ by some "
    "1e-7, which is what it allows (test_weights_are_repetitions has the same with 1e-5)",
}


def small(layers=SMALL, **parameters):
    return FlaxCNNClassifier(layers, **{"epochs": 3, "random_state": 0, **parameters})


def same_bits(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a.state_.params, b.state_.params))


@pytest.mark.slow
@parametrize_with_checks(
    [FlaxCNNClassifier()], expected_failed_checks=lambda _: EXPECTED_FAILURES
)  # fmt: skip
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


# -- what scikit-learn puts around it --------------------------------------------------------------


@pytest.mark.slow
def test_grid_search_over_rates_and_networks():
    grid = {"learning_rate": [1e-3, 3e-2], "layers": ["auto", SMALL, [Flatten(), Dense(10)]]}
    found = GridSearchCV(small(), grid, cv=2).fit(X, Y)
    assert found.best_score_ > 0.8
    assert found.best_params_["learning_rate"] == 3e-2
    assert found.best_estimator_.score(X, Y) > 0.9


@pytest.mark.slow
def test_two_processes_find_what_one_finds():
    one = cross_val_score(small(), X, Y, cv=2)
    two = cross_val_score(small(), X, Y, cv=2, n_jobs=2)
    np.testing.assert_allclose(one, two, atol=0.02)  # devices differ there, so rounding may


@pytest.mark.slow
def test_cross_val_predict():
    proba = cross_val_predict(small(), X, Y, cv=3, method="predict_proba")
    assert proba.shape == (300, 10)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.slow
def test_pipeline_and_vote():
    pipeline = make_pipeline(StandardScaler(), small(image_shape=(8, 8), layers=NET))
    names = [("cnn", pipeline), ("linear", LogisticRegression())]
    vote = VotingClassifier(names, voting="soft").fit(X, Y)
    assert vote.score(X, Y) > 0.9


def test_pickles_and_clones(tmp_path):
    fitted = small(NET, image_shape=(8, 8)).fit(X, Y)
    text = pickle.dumps(fitted)
    again = pickle.loads(text)
    assert np.array_equal(again.predict_proba(X), fitted.predict_proba(X))
    joblib.dump(fitted, tmp_path / "fitted.joblib")
    again = joblib.load(tmp_path / "fitted.joblib")
    assert np.array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert b"jaxlib" not in text
    assert all(type(x) is np.ndarray for x in jax.tree.leaves(again.state_))
    assert not hasattr(clone(fitted), "state_")
    assert same_bits(clone(fitted).fit(X, Y), fitted)


# -- data ------------------------------------------------------------------------------------------


def test_one_image_in_three_shapes_is_one_image():
    wide = X.reshape(-1, 8, 4, 2)
    flat, images, channels = (
        small(NET, image_shape=(8, 8)).fit(X, Y),
        small(NET).fit(X.reshape(-1, 8, 8), Y),
        small(NET).fit(X.reshape(-1, 8, 8, 1), Y),
    )
    assert same_bits(flat, images)
    assert same_bits(flat, channels)
    assert images.image_shape_ == (8, 8, 1)
    assert np.array_equal(images.predict_proba(X), channels.predict_proba(X.reshape(-1, 8, 8)))
    assert images.n_features_in_ == 64
    with pytest.raises(ConfigError, match=r"images \(8, 8, 1\), as in fit \(got \(8, 4, 2\)"):
        images.predict(wide)


def test_bytes_and_floats_are_the_same_to_rounding():
    a, b = small().fit(X.astype(np.uint8), Y), small().fit(X, Y)
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), atol=1e-4)
    np.testing.assert_allclose(a.predict_proba(X.astype(np.uint8)), a.predict_proba(X), atol=1e-5)


def test_features_far_from_zero_keep_their_digits():
    a, b = small().fit(X, Y), small().fit(X + 1e9, Y)
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X + 1e9), atol=1e-3)


@pytest.mark.parametrize("kind", [str, float, bool, "object"])
def test_labels_of_any_kind(kind):
    labels = np.array([f"class {y}" for y in Y], object) if kind == "object" else Y.astype(kind)
    fitted = small(layers="auto", learning_rate=0.01, epochs=5).fit(X, labels)
    assert list(fitted.classes_) == sorted(set(labels))
    assert fitted.predict(X).dtype == labels.dtype
    assert fitted.score(X, labels) > 0.9


@pytest.mark.parametrize("normalize", ["unit", "per_pixel", "per_channel", None])
def test_normalize(normalize):
    fitted = small(image_shape=(8, 8), normalize=normalize, learning_rate=0.01).fit(X, Y)
    values = fitted.standardizer_.apply(X.reshape(-1, 8, 8, 1))[0]
    if normalize == "unit":
        assert values.max() == np.float32(16 / 255)
    elif normalize is None:
        assert np.array_equal(values[..., 0], X.reshape(-1, 8, 8))
    else:
        shape = {"per_pixel": (8, 8, 1), "per_channel": (1, 1, 1)}[normalize]
        assert fitted.standardizer_.mean.shape == shape
        np.testing.assert_allclose(values.mean(), 0, atol=1e-6)


def test_data_frames_and_lists():
    lists = small().fit(X.tolist(), Y.tolist())
    assert same_bits(lists, small().fit(X, Y))
    assert np.array_equal(lists.predict(X[:9].tolist()), lists.predict(X[:9]))
    nested = small(NET).fit(X.reshape(-1, 8, 8).tolist(), Y)
    assert nested.image_shape_ == (8, 8, 1)
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=[f"pixel {i}" for i in range(64)])
    fitted = small().fit(frame, pandas.Series(Y))
    assert list(fitted.feature_names_in_) == list(frame.columns)
    assert same_bits(fitted, lists)
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(frame[frame.columns[::-1]])


# -- weights ---------------------------------------------------------------------------------------


def test_weights_are_repetitions():
    """In one batch: otherwise other rows come together, whatever the arithmetic."""
    weight = np.random.RandomState(0).randint(0, 4, 60)
    whole = {"batch_size": 1000, "epochs": 20}
    weighted = small(**whole).fit(X[:60], Y[:60], sample_weight=weight)
    repeated = small(**whole).fit(X[:60].repeat(weight, axis=0), Y[:60].repeat(weight))
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-5)
    np.testing.assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-5)
    plain = small(**whole).fit(X[:60], Y[:60])
    assert abs(plain.predict_proba(X) - weighted.predict_proba(X)).max() > 0.01


def test_rows_of_weight_zero_are_not_there():
    weight = np.random.RandomState(0).randint(0, 4, 300).astype(float)
    some = weight > 0
    a = small(NET, image_shape=(8, 8)).fit(X, Y, sample_weight=weight)
    b = small(NET, image_shape=(8, 8)).fit(X[some], Y[some], sample_weight=weight[some])
    assert same_bits(a, b)


def test_equal_weights_are_none_and_their_unit_does_not_matter():
    weight = np.random.RandomState(0).rand(300)
    assert same_bits(small().fit(X, Y), small().fit(X, Y, sample_weight=np.full(300, 0.3)))
    one, other = (small().fit(X, Y, sample_weight=unit * weight) for unit in (1, 1024))
    assert same_bits(one, other)
    weight[:200] = 1e-300  # nothing beside the others, but no division by 0 in a batch of them
    assert np.isfinite(small(batch_size=4).fit(X, Y, sample_weight=weight).loss_curve_).all()


# -- training --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_is_the_training_of_the_command_line(tmp_path):
    data = load("digits")
    config = Config("digits", NET, normalize="per_channel", epochs=3, determinism="exact", seed=3,
                    split_seed=3, validation=0.2)  # fmt: skip
    run = fit(config, data, tmp_path / "run")
    fitted = FlaxCNNClassifier(NET, epochs=3, random_state=3, validation_fraction=0.2)
    fitted.fit(data.train.image, data.train.label)
    equal = jax.tree.map(np.array_equal, fitted.state_.params, jax.device_get(run.state.params))
    assert jax.tree.all(equal)
    assert fitted.best_epoch_ == run.summary["best_epoch"]
    assert fitted.history_[-1]["val_accuracy"] <= run.summary["val_accuracy"]


def test_random_state():
    a, b, c = (small(random_state=state).fit(X, Y) for state in (1, 1, 2))
    assert same_bits(a, b)
    assert not same_bits(a, c)
    d, e = (small(random_state=np.random.RandomState(1)).fit(X, Y) for _ in range(2))
    assert same_bits(d, e)
    f, g = (small(random_state=None).fit(X, Y) for _ in range(2))
    assert not same_bits(f, g)


def test_patience_keeps_the_best_epoch():
    fitted = small(epochs=50, validation_fraction=0.3, patience=2, learning_rate=0.01).fit(X, Y)
    assert fitted.n_iter_ == fitted.best_epoch_ + 2 == len(fitted.loss_curve_) < 50
    values = [line["val_accuracy"] for line in fitted.history_]
    assert values.index(max(values)) + 1 == fitted.best_epoch_
    shorter = clone(fitted).set_params(epochs=fitted.best_epoch_, patience=None).fit(X, Y)
    assert same_bits(shorter, fitted)


def test_patience_without_hold_out_follows_the_training_loss():
    fitted = small(epochs=50, patience=1, optimizer=SGD(), learning_rate=3.0).fit(X, Y)
    assert fitted.n_iter_ < 50
    assert fitted.best_epoch_ == fitted.n_iter_
    assert "val_loss" not in fitted.history_[0]


def test_partial_fit_is_an_epoch():
    whole = small(NET, image_shape=(8, 8), epochs=3).fit(X, Y)
    parts = small(NET, image_shape=(8, 8))
    for _ in range(3):
        parts.partial_fit(X, Y, classes=np.unique(Y))
    assert same_bits(whole, parts)
    assert parts.n_iter_ == 3
    assert parts.loss_curve_ == whole.loss_curve_
    again = pickle.loads(pickle.dumps(parts))  # the optimizer's state comes along
    assert same_bits(again.partial_fit(X, Y), parts.partial_fit(X, Y))


def test_partial_fit_of_other_rows():
    parts = small(learning_rate=0.01)
    for start in (0, 100, 200) * 5:
        part = slice(start, start + 100)
        parts.partial_fit(X[part], Y[part], classes=range(10), sample_weight=1 + Y[part])
    assert parts.score(X, Y) > 0.8
    with pytest.raises(ValueError, match="got label 11, which is not one of the classes"):
        parts.partial_fit(X[:2], [1, 11])
    with pytest.raises(ConfigError, match=r"layers has changed since the first call"):
        parts.set_params(layers=(Flatten(), Dense(10))).partial_fit(X, Y)
    with pytest.raises(ConfigError, match="validation_fraction must be 0 in partial_fit"):
        parts.set_params(validation_fraction=0.1).partial_fit(X, Y)


@pytest.mark.slow
def test_several_devices_share_a_batch():
    one, four = (small(devices=n, batch_size=64).fit(X, Y) for n in (1, 4))
    np.testing.assert_allclose(one.predict_proba(X), four.predict_proba(X), atol=1e-5)


@pytest.mark.slow
def test_layers_by_name():
    named = small(layers="digits/quickstart", image_shape=(8, 8), epochs=1).fit(X[Y < 3], Y[Y < 3])
    *before, last = find("digits/quickstart").config.layers
    assert named.config_.layers == (*before, Dense(3))
    assert last == Dense(10)


def test_fits_of_one_shape_compile_once():
    small(learning_rate=0.5).fit(X[:77], Y[:77])
    before = arrays._programs.cache_info().misses
    small(learning_rate=0.25, random_state=5).fit(X[100:177], Y[100:177])
    assert arrays._programs.cache_info().misses == before


def test_verbose(capsys):
    small(epochs=2, verbose=True, validation_fraction=0.2).fit(X, Y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2: train_loss ")
    assert "val_accuracy" in lines[1]


@pytest.mark.slow
def test_the_documented_example(capsys):
    exec(PAGE.read_text().split("```python")[1].split("```")[0], {})
    assert float(capsys.readouterr().out.split()[-1]) > 0.95


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"layers": (Flatten(), Dense(7))}, r"data has 10 classes: end with dense units=10"),
        ({"layers": "mnist-ladder/model99"}, r"unknown experiment 'mnist-ladder/model99'"),
        ({"layers": (Conv(4), Flatten(), Dense(10))}, r"kernel 3x3 does not fit its 1x1 input"),
        (
            {"image_shape": (8, 9)},
            r"image_shape must be .* rows of 64 features in X \(got \(8, 9\)",
        ),
        ({"image_shape": (64,)}, r"image_shape must be .*\(got \(64,\)"),
        ({"optimizer": "adm"}, r"optimizer must be .*\(got 'adm'\); did you mean 'adam'"),
        ({"learning_rate": -1.0}, r"learning_rate must be above 0 \(got -1.0"),
        ({"batch_size": 0}, r"batch_size must be from 1 to 1048576"),
        ({"epochs": 2.5}, r"epochs must be an integer"),
        ({"validation_fraction": 1.5}, r"validation_fraction must be at least 0 and below 1"),
        ({"validation_fraction": 0.01}, r"3 of 300 rows"),
        ({"normalize": "zscore"}, r"normalize must be .*'zscore'"),
        ({"precision": "float16"}, r"precision must be float32"),
        ({"devices": 99}, r"devices must be from 1 to 4, or None \(got 99"),
    ],
)
def test_wrong_parameters(parameters, message):
    with pytest.raises(ConfigError, match=message):
        small(**parameters).fit(X, Y)


def test_divergence_is_an_error():
    with pytest.raises(DivergedError, match="lower learning_rate"):
        small(optimizer=SGD(), learning_rate=1e30).fit(X, Y)


def test_a_fit_that_fails_leaves_nothing_fitted():
    """Or the labels of the second would be told by the weights of the first."""
    model = small(optimizer=SGD()).fit(X, Y)
    with pytest.raises(DivergedError):
        model.set_params(learning_rate=1e30).fit(X, Y + 100)
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_a_forked_process_is_refused(monkeypatch):
    fitted = small().fit(X, Y)
    monkeypatch.setattr(estimator.os, "getpid", lambda: -1)
    with pytest.raises(FlaxcnnError, match="loky"):
        fitted.predict(X)
