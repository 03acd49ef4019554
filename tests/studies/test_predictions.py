"""A study that keeps the predictions of its test rows."""

import dataclasses

import numpy as np
import pytest
from test_study import TINY

from flaxcnn.records.study import predictions_file
from flaxcnn.studies.study import study


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_predictions_are_those_of_the_row(digits, tmp_path, how):
    recipe = dataclasses.replace(TINY, determinism="exact" if how == "map" else "fast")
    found = study(recipe, [0, 1], how=how, study_dir=tmp_path / "study", dataset=digits,
                  predictions=True)  # fmt: skip
    assert len(found.rows) == 2
    for row in found.rows:
        with np.load(found.path / predictions_file(row["run"])) as arrays:
            assert sorted(arrays) == ["label", "logits", "predicted", "row"]
            assert arrays["logits"].dtype == np.float16
            assert (arrays["logits"].argmax(axis=1) == arrays["predicted"]).mean() > 0.99
            hits = arrays["label"] == arrays["predicted"]
        assert len(hits) == row["test_rows"]
        assert hits.mean() == pytest.approx(row["test_accuracy"], abs=1e-9)


def test_without_being_asked_it_keeps_none(digits, tmp_path):
    found = study(TINY, [0], study_dir=tmp_path / "study", dataset=digits)
    assert not list(found.path.glob("predictions-*"))
