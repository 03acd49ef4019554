"""A moved Keras notebook: the page's own programs are run, and its table says what came of it."""

import json
import re

import numpy as np
import pytest

from benchmarks import keras_notebook, notebook_tables, tables
from flaxcnn.recipe.augment import Flip, Mixup, Rotate, Translate, Zoom


def test_the_page_has_both_programs_and_keras_lines_have_theirs():
    keras, recipe = keras_notebook.programs()
    compile(keras, "keras", "exec")
    config = keras_notebook.recipe()
    assert [type(kind) for kind in config.augment] == [Flip, Rotate, Zoom, Translate, Mixup]
    assert config.augment[1].degrees / 360 == pytest.approx(eval(
        re.search(r"RandomRotation\((.*?)\)", keras)[1]))  # fmt: skip
    rows = config.split.train, config.split.train + config.split.validation
    assert f"x[{rows[0]}:{rows[1]}], y[{rows[0]}:{rows[1]}]" in keras
    assert f".batch({config.batch_size})" in keras
    assert f"epochs={config.epochs}" in keras
    assert f"epochs={config.epochs}" in recipe


def curves(mean, seeds=3):
    rng = np.random.default_rng(0)
    return [{name: (mean + rng.normal(0, 0.01, 6)).tolist() for name in keras_notebook.METRICS}
            for _ in range(seeds)]  # fmt: skip


@pytest.mark.parametrize(("apart", "says"), [(0.0, "none is"), (1.0, "18 are")])
def test_the_table(apart, says, tmp_path):
    ours, theirs = curves(0.5 + apart), curves(0.5)
    document = {
        "seeds": 3, "curves": {"flaxcnn": ours, "keras": theirs},
        "compared": keras_notebook.compared(ours, theirs),
        "packages": {"keras": "3", "tensorflow": "2"}, "source_revision": "abc",
        "environment": {"processor": "P", "cores": 2, "versions": {"jax": "0"}},
    }  # fmt: skip
    document = json.loads(json.dumps(document))
    lines = tables.notebook(document).splitlines()
    assert len([x for x in lines if x.startswith("| validation accuracy |")]) == 4
    assert f"Of 18 comparisons, one for each epoch and quantity, {says} significant" in lines[-3]
    assert lines[2].startswith("| training loss | 1 | 0.")
    notebook_tables.draw(document, tables.styled(), tmp_path / "curves.svg", tables.INK)
    assert "flaxcnn, mean of 3" in (tmp_path / "curves.svg").read_text()
