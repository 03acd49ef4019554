"""A finished run taken up again gives its own figures, and refuses what is not its own."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from small_runs import ABANDONED, TINY, damage

from flaxcnn.data.arrays import Dataset, Split
from flaxcnn.engine import saved
from flaxcnn.engine.saved import classify, evaluate_run, open_run
from flaxcnn.errors import CheckpointError, DataError

pytestmark = [*ABANDONED, pytest.mark.usefixtures("compile_once")]


@pytest.mark.parametrize(
    ("split", "key"), [("test", "test"), ("validation", "val"), ("train", "train")]
)
def test_the_figures_of_the_summary_come_out_exactly(trained, split, key):
    found = evaluate_run(open_run(trained.path), split)
    assert found == {n: trained.summary[f"{key}_{n}"] for n in ("loss", "accuracy")}


def test_in_a_fresh_process_too(child, quiet):
    moved = shutil.copytree(quiet, child.folder / "elsewhere")  # and from another place
    done = child.run("evaluate", moved.name, "--json")
    assert done.returncode == 0, done.stderr
    found, summary = json.loads(done.stdout), json.loads((quiet / "summary.json").read_text())
    assert found["equal"] is True
    assert (found["test_loss"], found["test_accuracy"]) == (
        summary["test_loss"], summary["test_accuracy"],
    )  # fmt: skip


def test_classify_is_what_was_predicted(trained, digits):
    with np.load(trained.path / "predictions.npz") as found:
        logits = found["logits"].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = classify(open_run(trained.path), digits.test.image)
    assert found.shape == (len(digits.test), 10)
    # One batch of 360 there, batches of another size here: XLA may sum in another order
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.argmax(1), logits.argmax(1))


def test_classify_is_one_program(trained, digits, caplog):
    """Op by op, an accelerator would launch, and compile, each operation apart."""
    run, images = open_run(trained.path), digits.test.image[:7]
    with jax.log_compiles(), caplog.at_level("WARNING"):
        jax.clear_caches()
        first = classify(run, images)
        compiled = [r.getMessage() for r in caplog.records if "Finished XLA comp" in r.getMessage()]
        assert sum("_probabilities" in text for text in compiled) == 1
        assert not any(word in text for text in compiled for word in ("dot_general", "reduce"))
        caplog.clear()
        np.testing.assert_array_equal(classify(run, images), first)
        assert not any("_probabilities" in r.getMessage() for r in caplog.records)


def test_what_training_returns_is_what_is_read_from_its_folder(trained):
    opened = open_run(trained.path)
    own, read = ({k: v for k, v in vars(run).items() if k != "state"} for run in (trained, opened))
    assert own == read
    jax.tree.map(np.testing.assert_array_equal, trained.state, opened.state)


def test_a_run_that_was_moved_still_opens(trained, copy_of, monkeypatch):
    run = copy_of(trained.path)
    monkeypatch.chdir(run.parent)
    opened = open_run((run.parent / run.name).relative_to(run.parent))
    assert opened.summary == trained.summary
    assert opened.recipe == TINY


def test_a_damaged_kept_checkpoint_is_refused(trained, copy_of):
    run = copy_of(trained.path)
    kept = run / "checkpoints" / str(trained.summary["kept_epoch"])
    damage(kept)
    with pytest.raises(CheckpointError, match=f"checkpoint of epoch {kept.name}") as error:
        open_run(run)
    assert error.value.exit_code == 5


def test_a_missing_checkpoint_is_refused(trained, copy_of):
    run = copy_of(trained.path)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match="checkpoint of epoch"):
        open_run(run)


@pytest.mark.parametrize("what", ["nothing", "a file", "unfinished"])
def test_what_is_no_finished_run(trained, copy_of, tmp_path, what):
    path = tmp_path / "run"
    if what == "a file":
        path.write_text("")
    if what == "unfinished":
        path = copy_of(trained.path)
        (path / "summary.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no finished run \(no summary\.json\)"):
        open_run(path)
    if what == "nothing":
        assert not path.exists()


def test_other_data_is_refused(trained, digits, monkeypatch):
    image = digits.test.image.copy()
    image[0, 0, 0, 0] ^= 1
    other = Dataset(
        "digits", digits.train, Split(image, digits.test.label), digits.classes, "0" * 64
    )
    monkeypatch.setattr(saved, "load_for", lambda config: other)
    with pytest.raises(DataError, match="its digest is 000000000000"):
        evaluate_run(open_run(trained.path))


def test_a_split_that_changes_its_rows_is_seen(trained):
    """The rows come from the recipe again; `split.json` says which they were."""
    from flaxcnn.data import splits
    from flaxcnn.engine.make_job import make_job

    opened = open_run(trained.path)
    recorded = json.loads((trained.path / "split.json").read_text())
    from flaxcnn.data.datasets import load

    rows = make_job(opened.recipe, load("digits")).rows
    for field in dataclasses.fields(splits.Rows):
        np.testing.assert_array_equal(getattr(rows, field.name), recorded[field.name])
    assert splits.digest(rows) == opened.summary["split_digest"]
