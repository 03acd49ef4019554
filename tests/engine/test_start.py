"""`flaxcnn.train`: the run of `fit`, in one call."""

import dataclasses
import json

import pytest
from small_runs import TINY

import flaxcnn
from flaxcnn.errors import ConfigError
from flaxcnn.reports import tensorboard

pytestmark = pytest.mark.usefixtures("compile_once")
SHORT = dataclasses.replace(TINY, epochs=2)


def test_it_is_the_run_of_fit(trained, tmp_path, capsys):
    seen = []
    found = flaxcnn.train(TINY, name="tiny", on_epoch=seen.append)
    assert found.summary["params_digest"] == trained.summary["params_digest"]
    assert found.path.parent == tmp_path / "runs" / "tiny"
    assert found.path.name.endswith("-seed0")
    assert [row["epoch"] for row in seen] == list(range(1, TINY.epochs + 1))
    lines = capsys.readouterr().out.splitlines()
    assert [line[:15] for line in lines] == [f"epoch   {e}/8  lo" for e in range(1, 9)]
    assert f"{100 * found.summary['test_accuracy']:.2f} %" in found._repr_html_()


def test_an_experiment_by_name_has_a_folder_of_its_own_each_time(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("flaxcnn.api.train.fit", lambda config, data, path, **more: (
        path.mkdir(parents=True, exist_ok=True), config, more["name"]))  # fmt: skip
    found = [flaxcnn.train("digits/quickstart", verbose=False) for _ in range(3)]
    assert {name for _, _, name in found} == {"digits/quickstart"}
    assert len(list((tmp_path / "runs/digits/quickstart").iterdir())) == 3
    assert capsys.readouterr().out == ""


def test_a_run_goes_on_in_its_folder(tmp_path):
    first = flaxcnn.train(SHORT, run_dir=str(tmp_path / "run"), verbose=False)
    again = flaxcnn.train(TINY, run_dir=first.path, resume=True, verbose=False)
    assert again.path == first.path
    assert again.summary["epochs_run"] == TINY.epochs


def test_event_files_change_nothing_of_the_run(trained, tmp_path):
    found = flaxcnn.train(TINY, run_dir=tmp_path / "run", tensorboard=True, verbose=False)
    splits = {path.name for path in (found.path / "tensorboard").iterdir()}
    assert splits == {"train", "validation", "clean_train"}
    for key in ("params_digest", "fingerprint", "test_loss"):
        assert found.summary[key] == trained.summary[key]
    config = (found.path / "config.json").read_text()
    assert json.loads(config) == json.loads((trained.path / "config.json").read_text())


def test_event_files_that_fail_do_not_fail_the_run(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensorboard, "_open", full)
    found = flaxcnn.train(SHORT, run_dir=tmp_path / "run", tensorboard=True, verbose=False)
    assert found.summary["epochs_run"] == 2
    assert caplog.text.count("TensorBoard event files end here (OSError: [Errno 28] No space") == 1


def test_without_tensorboardx_nothing_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="tensorboard=True: needs tensorboardX"):
        flaxcnn.train(SHORT, run_dir=tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_an_unknown_experiment_is_named():
    with pytest.raises(ConfigError, match="did you mean 'mnist-ladder/model10'"):
        flaxcnn.train("mnist-lader/model10")
