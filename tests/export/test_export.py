"""Files that give the run's own logits."""

import dataclasses
import json

import numpy as np
import pytest

import flaxcnn
from flaxcnn.data.datasets import load
from flaxcnn.errors import ConfigError, DataError, FlaxcnnError
from flaxcnn.export import export as exporting
from flaxcnn.export.export import FORMATS, TOLERANCES, export


@pytest.fixture(scope="session")
def images():
    return load("digits").test.image


@pytest.fixture
def logits(run):
    with np.load(run.path / "predictions.npz") as file:
        return file["logits"]


def test_a_loaded_network_gives_the_logits_of_its_run(run, images, logits):
    model = flaxcnn.load(run.path)
    ours = model(images)
    assert ours.shape == logits.shape
    np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-4 * np.abs(logits).max())
    np.testing.assert_array_equal(model(images[:3]), model(images[:4])[:3])  # padded alike
    np.testing.assert_allclose(model(images[:5, ..., 0]), ours[:5], atol=1e-4)
    np.testing.assert_allclose(model(images[:5].astype(np.float64)), ours[:5], atol=1e-4)
    assert model(images[:0]).shape == (0, 10)
    named = model.predict(images[:20])
    assert named == [model.classes[k] for k in ours[:20].argmax(axis=1)]
    assert set(model.variables) == {"params", "batch_stats"}


def test_images_of_another_shape_are_refused(run):
    model = flaxcnn.load(run.path)
    with pytest.raises(DataError, match=r"images must be \[N, 8, 8, 1\] \(got \[2, 9, 8, 1\]\)"):
        model(np.zeros((2, 9, 8, 1), np.uint8))
    with pytest.raises(DataError, match="images must be uint8 or float"):
        model(np.zeros((2, 8, 8, 1), bool))


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
def test_a_program_with_any_number_of_images(run, tmp_path, images, logits, format, raw):
    path = tmp_path / f"file.{format}"
    done = export(run.path, format, path, raw=raw)
    assert done.difference <= TOLERANCES["float32"]
    assert done.rows == len(images)
    model = flaxcnn.load(run.path)
    inputs = images if not raw else ((images - model.mean) / model.scale).astype(np.float32)
    content = path.read_bytes()
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(content)
        (found,) = session.run(None, {"images": inputs[:7]})
    else:
        import jax
        import jax.export

        found = jax.export.deserialize(bytearray(content)).call(inputs[:7])
    np.testing.assert_allclose(found, logits[:7], atol=1e-4 * np.abs(logits).max())
    assert "largest difference of a logit" in (tmp_path / f"file.{format}.md").read_text()


def test_weights_and_scaling_as_safetensors(run, tmp_path):
    from safetensors import safe_open

    done = export(run.path, "safetensors")
    assert done.path == run.path / "model.safetensors"
    assert done.difference <= TOLERANCES["float32"]
    with safe_open(done.path, "np") as file:
        assert json.loads(file.metadata()["recipe"])["dataset"] == "digits"
        assert "scaling/mean" in file.keys()  # noqa: SIM118 - it is no dict
        kernel = file.get_tensor("params/conv2d/kernel")
    np.testing.assert_array_equal(kernel, run.state.params["conv2d"]["kernel"])


def test_a_file_that_differs_is_not_written(run, tmp_path, monkeypatch):
    """The check can fail: weights that were changed on the way are found."""
    honest = exporting.load

    def other(opened):
        model = honest(opened)
        params = dict(model.variables["params"])
        params["conv2d"] = {**params["conv2d"], "kernel": params["conv2d"]["kernel"] * 1.01}
        return dataclasses.replace(model, variables={**model.variables, "params": params})

    monkeypatch.setattr(exporting, "load", other)
    with pytest.raises(FlaxcnnError, match="nothing was written"):
        export(run.path, "onnx", tmp_path / "file.onnx")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_said(run, monkeypatch):
    with pytest.raises(ConfigError, match=r"--format must be .*did you mean 'onnx'"):
        export(run.path, "onx")
    with pytest.raises(ConfigError, match="--raw has no effect on safetensors"):
        export(run.path, "safetensors", raw=True)
    monkeypatch.setitem(FORMATS, "onnx", "there_is_no_such_package")
    with pytest.raises(ConfigError, match=r"pip install 'flaxcnn\[export\]'"):
        export(run.path, "onnx")


OWN = """
import flax.linen as nn
from flax import nnx


class Counts(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(x.reshape(len(x), -1))


class Keyed(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.dropout = nnx.Dropout(rate=0.1)
        self.linear = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x, rngs: nnx.Rngs):
        return self.linear(self.dropout(self.norm(x.reshape(x.shape[0], 64)), rngs=rngs))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Counts", "Keyed"])
def test_a_network_of_one_s_own_with_any_number_of_images(tmp_path, images, kind):
    """Also where its code takes the number of images as a number."""
    import jax.export

    (tmp_path / "own.py").write_text(OWN)
    spec = {"Counts": flaxcnn.Linen, "Keyed": flaxcnn.NNX}[kind](f"{tmp_path / 'own.py'}:{kind}")
    run = flaxcnn.train(
        "digits/quickstart", model=spec, epochs=1, run_dir=tmp_path / "run", verbose=False
    )
    assert export(run.path, "safetensors").difference <= TOLERANCES["float32"]
    done = export(run.path, "stablehlo")
    program = jax.export.deserialize(bytearray(done.path.read_bytes()))
    logits = run.predictions().logits
    for count in (1, 7):
        np.testing.assert_allclose(
            program.call(images[:count]), logits[:count], atol=1e-4 * np.abs(logits).max()
        )
    with pytest.raises(ConfigError, match="this network is one of your own; use --format stable"):
        export(run.path, "onnx")


@pytest.mark.slow
def test_onnx_has_every_layer(tmp_path, images):
    """All but layers of one's own, by onnxruntime against the network."""
    from flaxcnn.recipe import layers as spec
    from flaxcnn.recipe.config import Config

    branch = (spec.SeparableConv(4, 3, 2, "same"), spec.RMSNorm(), spec.SqueezeExcitation(2))
    layers = (
        spec.Conv(8, 3, padding="same", dilation=2, groups=1, bias=False),
        spec.BatchNorm(scale=False), spec.GroupNorm(2), spec.Conv(8, 3, groups=4),
        spec.LayerNorm(), spec.LayerScale(0.5), spec.ChannelShuffle(2), spec.BlurPool(3, 1),
        spec.Parallel(((spec.TakeChannels(0, 4),), (spec.TakeChannels(4, 4), spec.Scale(0.5)))),
        spec.DepthwiseConv(3, 1, "same", 2, "relu"), spec.PadChannels(20), spec.InstanceNorm(),
        spec.Residual((spec.Conv(20, 1), spec.StochasticDepth(0.1))),
        spec.Parallel((branch, (spec.MaxPool(1, 2), spec.PadChannels(20), spec.Conv(4, 1))), "add"),
        spec.EfficientChannelAttention(), spec.GlobalMaxPool(), spec.LayerNorm(), spec.Dense(10),
    )  # fmt: skip
    run = flaxcnn.train(
        Config("digits", layers, epochs=1, batch_size=500), run_dir=tmp_path / "run", verbose=False
    )
    done = export(run.path, "onnx", tmp_path / "file.onnx")
    assert done.difference <= TOLERANCES["float32"]
