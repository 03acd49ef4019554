"""`flaxcnn report` and its pages: what they hold, what they bear, and what they never do."""

import base64
import csv
import hashlib
import io
import itertools
import json
import os
import re
import subprocess
import sys
import time
import webbrowser

import made
import numpy as np
import pytest
from elements import Elements
from PIL import Image

from flaxcnn.cli.main import main
from flaxcnn.cli.report import report_after
from flaxcnn.data.datasets import load_for
from flaxcnn.data.images import Images
from flaxcnn.data.splits import choose, to_json
from flaxcnn.errors import CheckpointError, ConfigError, DataError
from flaxcnn.recipe import catalog
from flaxcnn.records.intervals import wilson
from flaxcnn.records.read import read_run
from flaxcnn.reports import commands, curves
from flaxcnn.reports.pixels import load_images
from flaxcnn.reports.report import make, read, write

HOSTILE = ["<script>alert(1)</script>", "a & b", "$x^2$", *map(str, range(7))]


def page(path, dataset=None):
    return make([read(path)], dataset)


def text(made_):
    return " ".join(Elements(made_.html).text.split())


# -- contents ------------------------------------------------------------------------------------


def test_the_page_of_a_run(run):
    found = page(run)
    shown, summary = text(found), json.loads((run / "summary.json").read_text())
    low, high = (100 * end for end in wilson(summary["test_accuracy"], 360))
    assert f"Test accuracy {100 * summary['test_accuracy']:.2f} %" in shown
    assert f"95 % interval {low:.2f} to {high:.2f} %, 360 images" in shown
    assert "A network of 10 layers" in shown
    assert "honest protocol" in shown
    assert summary["fingerprint"] in shown
    assert summary["params_digest"] in shown
    assert list(found.svgs) == [
        "learning-accuracy", "learning-loss", "reliability", "confusion", "errors", "architecture",
    ]  # fmt: skip
    assert "flaxcnn train digits/quickstart -s epochs=6" in shown
    assert "flaxcnn reproduce" in shown
    assert "git checkout 0123abc" in shown
    assert "has no test split of its own" in shown
    assert [line.count("*") for line in found.text.splitlines()][-1] == 1


def test_the_page_of_a_study(study):
    found = page(study)
    mean = json.loads((study / "study.json").read_text())["settings"][0]["metrics"]["test_accuracy"]
    assert f"mean of 8 seeds {100 * mean['mean']:.2f} % ± {100 * mean['sd']:.2f}" in text(found)
    assert list(found.svgs) == ["bands-accuracy", "bands-loss", "seeds", "architecture"]
    assert "flaxcnn study digits/quickstart -s epochs=6 --seeds 8" in text(found)
    rows = [attrs for tag, attrs in Elements(found.html).tags if tag == "tr"]
    assert len(rows) > 8
    assert not found.warnings


def test_the_page_of_a_grid(tmp_path):
    grid = {"learning_rate": [0.1, 0.01], "layers.0.filters": [8, 16], "optimizer": ["sgd", "adam"]}
    found = page(made.study(tmp_path / "grid", seeds=3, grid=grid))
    assert {"grid", "seeds", "accuracy-parameters"} <= set(found.svgs)
    assert "layers.0.filters, optimizer=" in found.html, "a table over all three settings"
    assert "The best of 8 settings by validation accuracy" in text(found)


def test_what_follows_from_the_grid_is_no_side_of_its_table(tmp_path):
    """An optimizer brings its own learning rate, which is in the setting too."""
    grid = {"optimizer": ["sgd", "adam"], "layers.0.filters": [8, 16]}
    found = page(made.study(tmp_path / "grid", seeds=2, grid=grid))
    assert "layers.0.filters=16" in found.html
    assert ">none<" not in found.svgs["grid"]


def test_failures_come_first(tmp_path):
    found = page(made.study(tmp_path / "study", seeds=4, diverged={1, 2}))
    shown = text(found)
    assert "Seed 1 diverged: epoch 2: train_loss is nan" in shown
    assert shown.index("Problems") < shown.index("Test accuracy, mean of")
    assert shown.index("diverged:") < shown.index("Runs complete")


def test_a_study_whose_runs_all_diverged(tmp_path):
    found = page(made.study(tmp_path / "study", seeds=2, diverged={0, 1}))
    assert "no run is complete" in text(found)


def test_the_document_protocol_is_a_warning(tmp_path):
    config, _ = catalog.resolve(
        catalog.find("mnist-ladder/model10"), protocol="document", environ={}
    )
    path = made.run(tmp_path / "run", config=config)
    found = page(path)
    shown = text(found)
    assert "document protocol: epoch chosen on the test rows themselves" in shown
    assert 'class="flag doubtful"' in found.html
    assert shown.index("every accuracy of this run is optimistic") < shown.index("Loss over")


def test_several_are_put_side_by_side(tmp_path):
    a = made.run(tmp_path / "a")
    b = made.run(tmp_path / "b", config=made.recipe("epochs=6", "learning_rate=0.01"))
    found = make([read(a), read(b)])
    assert list(found.svgs) == ["seeds", "classes", "bands-accuracy", "bands-loss", "throughput"]
    assert "2 recipes side by side" in text(found)
    again = made.run(tmp_path / "again", config=made.recipe("epochs=6", "seed=1"))
    assert "2 runs of one recipe" in text(make([read(a), read(again)]))
    c = made.study(tmp_path / "c", epochs=7)
    mixed = make([read(a), read(c)])
    assert "bands-accuracy" in mixed.svgs
    assert "epochs=7" in text(mixed)


def test_several_that_differ_in_data_say_so(tmp_path):
    a = made.run(tmp_path / "a")
    b = made.run(tmp_path / "b", data_digest="other")
    assert "They differ in data, which" in text(make([read(a), read(b)]))


# -- the file ------------------------------------------------------------------------------------


def test_nothing_is_loaded_from_elsewhere(run, study):
    for path in (run, study):
        html = page(path).html
        for tag, attrs in Elements(html).tags:
            for key in ("src", "href", "xlink:href", "action"):
                if key in attrs:
                    assert attrs[key].startswith(("#", "data:")), (tag, attrs)
            assert not [key for key in attrs if key.startswith("on")]
        assert "url(http" not in html
        policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1]
        assert policy.startswith("default-src 'none'")
        (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in policy


def test_everything_is_escaped(tmp_path):
    path = made.run(tmp_path / "<b>run", classes=HOSTILE, experiment="<img src=x onerror=alert(1)>")
    found = page(path)
    elements = Elements(found.html)
    assert [tag for tag, _ in elements.tags].count("script") == 1
    images = [attrs for tag, attrs in elements.tags if tag == "img"]
    assert images
    assert all(attrs["src"].startswith("data:") and "onerror" not in attrs for attrs in images)
    assert HOSTILE[0] in elements.text
    assert "<img src=x onerror=alert(1)>" in elements.text


def test_every_picture_is_said_in_words(run, study):
    for path in (run, study):
        elements = Elements(page(path).html)
        ids = {attrs["id"] for _, attrs in elements.tags if "id" in attrs}
        assert len(ids) == sum("id" in attrs for _, attrs in elements.tags)
        pictures = [attrs for tag, attrs in elements.tags if tag == "svg"]
        assert pictures
        for attrs in pictures:
            assert attrs["role"] == "img"
            assert attrs["aria-labelledby"] in ids


def test_equal_records_give_equal_bytes(run):
    assert page(run).html == page(run).html


def test_32_seeds_stay_small_and_quick(tmp_path):
    path = made.study(tmp_path / "study", seeds=32, epochs=50)
    began = time.process_time()
    target, _ = write([path])
    assert time.process_time() - began < 5
    assert target.stat().st_size < 3_000_000


def test_jax_is_never_imported(run):
    code = (
        "import sys\nfrom flaxcnn.cli.main import main\n"
        f"try: main(['report', {str(run)!r}])\nexcept SystemExit as e: assert not e.code\n"
        "print({'jax', 'matplotlib.pyplot', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert (run / "report.html").is_file()


# -- what may be missing or broken ---------------------------------------------------------------


def test_without_predictions_the_rest_is_shown(run):
    (run / "predictions.npz").unlink()
    found = page(run)
    assert "predictions.npz is missing" in text(found)
    assert "learning-accuracy" in found.svgs
    assert "Training images of each class" in text(found)


@pytest.mark.parametrize("damage", [b"", b"PK no zip", "shape"])
def test_damaged_predictions_are_a_warning(run, damage):
    file = run / "predictions.npz"
    if damage == "shape":
        np.savez(file, row=np.arange(3), label=np.arange(3), logits=np.zeros((3, 7)))
    else:
        file.write_bytes(damage)
    found = page(run)
    assert any("predictions.npz" in warning for warning in found.warnings)
    assert "confusion" not in found.svgs


def test_predictions_of_another_run_are_found_out(run):
    summary = json.loads((run / "summary.json").read_text())
    made.write(run, "summary.json", {**summary, "test_accuracy": 0.5})
    assert "they are not of the same run" in text(page(run))


def test_data_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXCNN_DATA_DIR", str(tmp_path / "none"))
    path = made.run(tmp_path / "run", config=made.recipe(name="mnist-ladder/model10"))
    found = page(path)
    assert "mnist is not prepared here; flaxcnn data prepare mnist does that" in text(found)
    assert "confusion" in found.svgs
    assert "images of each class" not in text(found)
    assert not (tmp_path / "none").exists()


def test_other_data_is_not_shown(run):
    data = json.loads((run / "data.json").read_text())
    made.write(run, "data.json", {**data, "digest": "0" * 64})
    found = page(run)
    assert "digits is not the data that the run was trained on" in text(found)
    assert "images of each class" not in text(found)


def test_images_of_a_folder_are_decoded_for_what_is_shown(tmp_path, monkeypatch):
    draws, names = np.random.default_rng(0), ("its $5 <b>", "red & green")
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(30):
            pixels = draws.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    config = made.recipe(f"dataset=folder:{tmp_path}/data", 'layers=[{"type": "flatten"}, '
                         '{"type": "dense", "units": 2}]', "input=stream")  # fmt: skip
    data = load_for(config)
    assert data.undecoded
    rows, label = choose(data, config), data.test.label
    path = made.run(tmp_path / "run", classes=names)
    told = json.loads((path / "data.json").read_text())
    made.write(path, "data.json", {**told, "digest": data.digest})
    made.write(path, "config.json", config.to_dict())
    made.write(path, "split.json", to_json(rows))
    np.savez(path / "predictions.npz", row=rows.test, label=label,
             logits=made.logits(label, classes=2, wrong=1))  # fmt: skip
    read_rows = []
    real = Images.read
    monkeypatch.setattr(
        Images, "read", lambda self, rows, *a: read_rows.append(len(rows)) or real(self, rows, *a)
    )
    found = page(path)
    # the cells' (1 of an error, 6 and 5 that are right), a mistake, the test rows, 16 samples
    assert sum(read_rows) == 12 + 1 + 12 + 16
    assert names[0] in text(found)
    wrong = np.flatnonzero(made.logits(label, classes=2, wrong=1).argmax(axis=1) != label)[0]
    file = data.test.image.files[data.test.image.index[wrong]]
    assert file.rpartition("/")[2] in text(found)
    table = list(csv.reader(io.StringIO(found.tables["predictions.csv"])))
    assert table[0][:4] == ["image", "true", "predicted", "probability"]
    assert len(table) == 13
    assert table[1 + wrong][:3] == [file, names[label[wrong]], names[1 - label[wrong]]]


def test_a_folder_that_is_gone_is_a_warning(run):
    config = json.loads((run / "config.json").read_text())
    made.write(run, "config.json", {**config, "dataset": f"folder:{run}/nowhere"})
    with pytest.raises(DataError):
        load_images(read_run(run))
    assert "Images of the data are not shown" in text(page(run))


def test_a_picture_that_fails_is_a_warning(run, monkeypatch):
    def broken(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(curves, "learning", broken)
    found = page(run)
    assert "could not be drawn (RuntimeError: no ink)" in text(found)
    assert "confusion" in found.svgs


def test_a_recipe_of_another_version_is_shown_without_its_network(run):
    config = json.loads((run / "config.json").read_text())
    made.write(run, "config.json", {**config, "unheard_of": 1})
    found = page(run)
    assert "of another version of flaxcnn" in text(found)
    assert "architecture" not in found.svgs


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_what_is_no_finished_run(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="holds no finished run, study or search"):
        read(tmp_path / name)


def test_a_damaged_record_is_named(run):
    made.write(run, "summary.json", {"experiment": "x"})
    with pytest.raises(CheckpointError, match=r"summary\.json: lacks protocol"):
        read(run)


def test_no_folder_is_refused():
    with pytest.raises(ConfigError, match="needs at least one run or study directory"):
        make([])


def test_nothing_of_a_report_can_fail_what_it_is_about(run, monkeypatch, capsys):
    """`train` and `study` end by it."""
    assert report_after(run) == run / "report.html"
    (run / "report.html").unlink()
    (run / "report.html").mkdir()
    assert report_after(run) is None
    assert "no report was written (WriteError: " in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [name for name in sys.modules if name.startswith("flaxcnn.reports")]:
        monkeypatch.delitem(sys.modules, name)
    assert report_after(run) is None
    assert "import of matplotlib halted" in capsys.readouterr().err


# -- the lines that do it again ------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["honest", "document"])
def test_words_resolve_to_the_recipe_they_stand_for(tmp_path, protocol):
    tried = 0
    for name, experiment in catalog.experiments().items():
        if experiment.config is None or (protocol == "document" and not experiment.documented):
            continue
        config, _ = catalog.resolve(
            experiment, protocol=protocol, seed=3, environ={},
            assignments=["epochs=2", "learning_rate=0.003"],
        )  # fmt: skip
        words = commands.recipe_words(name, config, tmp_path / "config.json")
        assert words[0] == name
        changed = [word for flag, word in itertools.pairwise(words) if flag == "-s"]
        again, _ = catalog.resolve(experiment, protocol=protocol, assignments=changed, environ={})
        assert again == config
        tried += 1
    assert tried > 3


def test_a_recipe_from_a_file_is_read_from_its_record(tmp_path):
    config = made.recipe("epochs=3", "layers.0.filters=4")
    made.write(tmp_path, "config.json", config.to_dict())
    words = commands.recipe_words("recipes/mine", config, tmp_path / "config.json")
    assert words == ["--config", str(tmp_path / "config.json")]
    assert commands.recipe_words("recipes/mine", config, tmp_path / "none.json") is None


def test_paths_are_words_of_a_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert commands.shell_path(tmp_path / "a b") == "'a b'"
    assert commands.shell_path(tmp_path.parent) == str(tmp_path.parent)


# -- the command ---------------------------------------------------------------------------------


def call(*words, cwd=None):
    command = [sys.executable, "-m", "flaxcnn", "report", *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_the_command_writes_the_page_and_its_pictures(run):
    done = call(run, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["report"] == str(run / "report.html")
    assert found["bytes"] == (run / "report.html").stat().st_size
    assert {f"{name}.svg" for name in found["pictures"]} == {p.name for p in run.glob("plots/*")}
    assert (run / "predictions.csv").read_text().count("\n") == 361
    assert any("no test split" in text for text in found["warnings"])


def test_several_go_where_they_are_told(tmp_path, run, study):
    done = call(run, study, "--output", "both.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "both.html").is_file()
    assert not (run / "plots").exists()


@pytest.mark.parametrize("found", [True, False])
def test_open_shows_the_page_where_there_is_a_browser(run, monkeypatch, capsys, found):
    shown = []
    monkeypatch.setattr(webbrowser, "open", lambda url: shown.append(url) or found)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run), "--open"])
    assert not ended.value.code
    assert shown == [(run / "report.html").as_uri()]
    assert ("no browser is available" in capsys.readouterr().err) is not found


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "Missing argument"),
        (("nowhere",), 5, "search.json); there is no such folder; `flaxcnn runs list` shows"),
        (("RUN", "--output", "."), 2, "--output: . is a folder"),
        (("RUN", "--output", "no/such/file.html"), 6, "file.html: cannot be written"),
    ],
)
def test_what_cannot_be_reported_is_said_in_a_line(tmp_path, run, words, code, says):
    done = call(*(run if word == "RUN" else word for word in words), cwd=tmp_path)
    assert done.returncode == code
    assert says in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
