"""`flaxcnn study`, `compare` and `reproduce` as a user types them."""

import json
import subprocess
import sys

import pytest

from flaxcnn.cli import compare, study

SMALL = ("recipes.py:small", "-s", "epochs=1")
EXACT = (*SMALL, "-s", "determinism=exact")


@pytest.fixture(autouse=True)
def loud(monkeypatch):
    for module in (compare, study):
        monkeypatch.setattr(module, "quiet", lambda: None)


@pytest.fixture
def studied(flaxcnn, home):
    """Two studies of four seeds: a good rate and one that learns next to nothing."""
    for name, rate in (("good", "0.5"), ("poor", "0.0001")):
        done = flaxcnn("study", *SMALL, "-s", f"learning_rate={rate}", "--seeds", 4,
                       "--study-dir", name)  # fmt: skip
        assert done.code == 0, done.err
    return home


def test_a_study_says_what_it_does_and_found(flaxcnn, home):
    done = flaxcnn("study", *SMALL, "--seeds", "2", "--grid", "learning_rate=0.5,0.1",
                   "--grid", "optimizer=sgd,adam", "--study-dir", "found", "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert "program of 4 runs" in done.err
    assert done.err.count("\nrun ") == 8
    found = done.json
    assert [s["label"] for s in found["settings"]] == [
        'learning_rate=0.5, optimizer="sgd"', 'learning_rate=0.5, optimizer="adam"',
        'learning_rate=0.1, optimizer="sgd"', 'learning_rate=0.1, optimizer="adam"',
    ]  # fmt: skip
    assert found["complete"] == 8
    assert json.loads((home / "found" / "study.json").read_text())["settings"] == found["settings"]


def test_compare_tells_good_from_poor(flaxcnn, studied):
    done = flaxcnn("compare", "poor", "good", "--json")
    assert done.code == 0, done.err
    (one,) = done.json["comparisons"]
    assert one["verdict"] == "better"
    assert one["comparison"]["difference"] > 0.1
    text = flaxcnn("compare", "good", "poor").out
    assert "mine/" not in text
    assert "worse" in text
    assert "learning_rate=0.0001 against learning_rate=0.5" in text  # named by what differs
    assert "against" in text
    loss = flaxcnn("compare", "poor", "good", "--metric", "test_loss", "--json").json
    (one,) = loss["comparisons"]
    assert one["verdict"] == "better"
    assert 0 < one["comparison"]["mean_a"] < one["comparison"]["mean_b"]
    assert one["comparison"]["difference"] < one["comparison"]["interval"][1] < 0


def test_the_same_recipe_is_one_side(flaxcnn, studied):
    done = flaxcnn("compare", "good", "good")
    assert done.code == 2
    assert "is in more than one folder" in done.err


@pytest.mark.slow
def test_what_cannot_be_compared(flaxcnn, studied, home):
    done = flaxcnn("compare", "good")
    assert done.code == 2
    assert "compare needs two or more recipes" in done.err
    done = flaxcnn("compare", "good", "poor", "--metric", "test_acuracy")
    assert done.code == 2
    assert "did you mean 'test_accuracy'" in done.err
    done = flaxcnn("compare", "good", "nowhere")
    assert done.code == 5
    assert "holds no finished run, study or search" in done.err
    other = flaxcnn("study", *SMALL, "-s", "split_seed=1", "--seeds", 2, "--study-dir", "other")
    assert other.code == 0
    done = flaxcnn("compare", "good", "other")
    assert done.code == 2
    assert "differ in split_digest" in done.err
    done = flaxcnn("compare", "good", "other", "--anyway")
    assert done.code == 0
    assert "warning:" in done.err
    assert "a difference may come from there" in done.err
    flaxcnn("study", *SMALL, "-s", "learning_rate=0.1", "--seeds", 1, "--study-dir", "lonely")
    done = flaxcnn("compare", "good", "lonely")
    assert done.code == 2


@pytest.mark.parametrize(("arguments", "words"), [
    (["--seeds", "0"], "--seeds must be from 1 to 100000 (got 0)"),
    (["--seeds", "1,1"], "(got 1 twice)"),
    (["--seeds", "few"], "3,5,8 (got 'few')"),
    (["--seeds", "99999999999999999999"], "--seeds must be from 1 to 100000"),
    (["--seeds", "2", "--max-memory", ""], "such as 2G or 512M (got '')"),
    (["--seeds", "2", "--vary", "init", "-s", "init_seed=3"], "init_seed=3 does not work"),
    (["--seeds", "2", "--grid", "learning_rat=1"], "did you mean 'learning_rate'"),
    (["--seeds", "2", "--grid", "epochs=soon"], "epochs must be an integer (got 'soon')"),
    (["--seeds", "2", "--grid", "epochs"], "write it as KEY=VALUE,VALUE"),
    (["--seeds", "2", "--vary", "innit"], "did you mean 'init'"),
    (["--seeds", "2", "--vary", "dropout"], "needs a recipe with dropout"),
    (["--seeds", "2", "--how", "vmapp"], "did you mean 'vmap'"),
    (["--seeds", "2", "--max-memory", "lots"], "such as 2G or 512M (got 'lots')"),
    (["--seeds", "2", "--how", "vmap", "-s", "determinism=exact"], "use map"),
    (["--seeds", "2", "--resume"], "--resume needs the study to resume"),
])  # fmt: skip
def test_bad_input_is_one_line(arguments, words, flaxcnn, home):
    done = flaxcnn("study", *SMALL, *arguments)
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") <= 2
    assert not list(home.rglob("runs.jsonl"))


def test_a_study_of_runs_that_all_diverge(flaxcnn):
    done = flaxcnn("study", *SMALL, "--seeds", 2, "-s", "learning_rate=3e38", "--study-dir", "bad")
    assert done.code == 4
    assert "every run diverged" in done.err
    done = flaxcnn("compare", "bad", "bad")
    assert done.code == 2


def test_records_that_cannot_be_read(flaxcnn, studied):
    rows = (studied / "poor" / "runs.jsonl").read_text()
    (studied / "poor" / "digests.json").unlink()
    for damaged, words in (
        (rows.replace("{", "<", 1), "line 1 is damaged"),
        (rows.replace('"split_digest"', '"split"'), "lacks split_digest"),
    ):
        (studied / "poor" / "runs.jsonl").write_text(damaged)
        done = flaxcnn("compare", "good", "poor")
        assert done.code == 5
        assert words in done.err
    (studied / "poor" / "plan.json").write_text("{}")
    assert flaxcnn("compare", "good", "poor").code == 5


def test_resume_of_nothing(flaxcnn):
    done = flaxcnn("study", *SMALL, "--seeds", 2, "--study-dir", "nowhere", "--resume")
    assert done.code == 5
    assert "there is no study in nowhere" in done.err


@pytest.mark.slow
def test_variance_of_each_source(flaxcnn):
    done = flaxcnn("study", *SMALL, "--seeds", 3, "--vary", "init,order,all", "--study-dir", "v",
                   "--json")  # fmt: skip
    assert done.code == 0, done.err
    (found,) = done.json["variance"]
    table = {c["source"]: c for c in found["components"]}
    assert list(table) == ["init", "order", "all"]
    assert table["all"]["n"] == 3
    assert "variance" in done.err


class TestReproduce:
    def test_a_run(self, flaxcnn, home):
        flaxcnn("train", *EXACT, "--run-dir", "run")
        done = flaxcnn("reproduce", "run")
        assert done.code == 0, done.err
        assert "same bits: 1 run" in done.out
        metrics = home / "run" / "metrics.jsonl"
        metrics.write_text(metrics.read_text().replace('"val_loss": ', '"val_loss": 1'))
        env = json.loads((home / "run" / "env.json").read_text())
        env["versions"]["jax"] = "0.0.1"
        (home / "run" / "env.json").write_text(json.dumps(env))
        (home / "run" / "digests.json").unlink()
        done = flaxcnn("reproduce", "run", "--json")
        assert done.code == 1
        assert done.json["differ"] == [{"seed": 0, "label": "", "epoch": 1}]
        assert "versions.jax: then 0.0.1" in done.err

    def test_a_study(self, flaxcnn, home):
        flaxcnn("study", *EXACT, "--seeds", 3, "--study-dir", "three")
        done = flaxcnn("reproduce", "three")
        assert done.code == 0, done.err
        assert "same bits: 3 runs" in done.out

    def test_nothing_there(self, flaxcnn):
        done = flaxcnn("reproduce", "nowhere")
        assert done.code == 5
        assert "holds no finished run, study or search" in done.err


@pytest.mark.slow
def test_killed_ten_times_it_ends_the_same(home, killed_at_random):
    """SIGKILL at random moments; `study.json` is that of a study nobody touched, to the byte."""
    command = [sys.executable, "-m", "flaxcnn", "study", "recipes.py:small", "-s", "epochs=40",
               "-s", "determinism=exact", "--seeds", "24"]  # fmt: skip
    quiet = subprocess.run([*command, "--study-dir", "quiet"], check=True, capture_output=True)
    assert quiet.returncode == 0
    kills = killed_at_random(command, "--study-dir", 10)
    assert kills >= 3
    assert (home / "killed/study.json").read_bytes() == (home / "quiet/study.json").read_bytes()
    rows = (home / "killed/runs.jsonl").read_text().splitlines()
    assert len({json.loads(row)["run"] for row in rows}) == len(rows) == 24
