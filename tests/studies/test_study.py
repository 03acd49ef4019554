"""A study's folder: resumable, the same to the byte however often it was stopped."""

import csv
import dataclasses
import json
import shutil

import pytest
from test_runs import EXACT

from flaxcnn.errors import CheckpointError, ConfigError, DataError, InterruptedRun
from flaxcnn.recipe.layers import Dense, Flatten, MaxPool
from flaxcnn.records.read import read_study
from flaxcnn.studies import campaign
from flaxcnn.studies import width as widths
from flaxcnn.studies.events import Listener
from flaxcnn.studies.plan import parse_memory
from flaxcnn.studies.study import study

TINY = dataclasses.replace(
    EXACT, layers=(Flatten(), Dense(10)), augment=(), epochs=2, patience=None
)
FILES = {
    "plan.json", "env.json", "runs.jsonl", "epochs.jsonl", "study.json", "runs.csv", "README.md",
    "status.json", "run.lock", "digests.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """A study that nobody touched."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    return study(
        TINY, [0, 1, 2], grid={"learning_rate": [0.05, 3e38]}, study_dir=folder, dataset=digits,
        name="tiny",
    )  # fmt: skip


def test_what_it_writes(whole):
    assert {p.name for p in whole.path.iterdir()} == FILES
    rows = [json.loads(line) for line in (whole.path / "runs.jsonl").read_text().splitlines()]
    assert sorted(r["run"] for r in rows) == sorted(r["run"] for r in whole.rows)
    epochs = [json.loads(line) for line in (whole.path / "epochs.jsonl").read_text().splitlines()]
    assert len(epochs) == 3 * 2 + 3 * 1  # the diverged ones end in their first epoch
    summary = json.loads((whole.path / "study.json").read_text())
    good, bad = summary["settings"]
    assert (good["complete"], bad["complete"], bad["diverged"]) == (3, 0, [0, 1, 2])
    accuracies = [r["test_accuracy"] for r in whole.rows[:3]]
    assert good["metrics"]["test_accuracy"]["mean"] == pytest.approx(sum(accuracies) / 3)
    assert good["params_digests"] == {str(r["seed"]): r["params_digest"] for r in whole.rows[:3]}
    page = (whole.path / "README.md").read_text()
    assert "learning_rate=0.05 | 3 of 3" in page
    assert "lower learning_rate (now 3e+38)" in page


def test_the_table(whole, tmp_path):
    table = whole.to_dict()
    assert table["learning_rate"] == [0.05] * 3 + [3e38] * 3
    assert table["seed"] == [0, 1, 2] * 2
    assert table["test_accuracy"][3:] == [None] * 3
    assert {len(values) for values in table.values()} == {6}
    whole.to_csv(tmp_path / "table.csv")
    with open(tmp_path / "table.csv") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["test_accuracy"]) for line in lines[:3]] == table["test_accuracy"][:3]


class Stop(Exception):
    """Instead of a kill, at a moment one can choose."""


@pytest.mark.parametrize("after", [1, 3, 5])
def test_resumed_it_repeats_nothing_and_ends_the_same(after, whole, digits, tmp_path):
    told = []

    def stop(outcome, ended, planned):
        told.append(outcome.run.key)
        if len(told) == after:
            raise Stop

    arguments = {
        "seeds": [0, 1, 2], "grid": {"learning_rate": [0.05, 3e38]}, "dataset": digits,
        "study_dir": tmp_path / "study", "name": "tiny",
    }  # fmt: skip
    with pytest.raises(Stop):
        study(TINY, **arguments, tell=Listener(run=stop))
    # A kill within a write leaves half a line, epochs of a run without a row, and no digests.
    (tmp_path / "study" / "digests.json").unlink()
    with open(tmp_path / "study" / "runs.jsonl", "a") as file:
        file.write('{"run": "cut sho')
    with open(tmp_path / "study" / "epochs.jsonl", "a") as file:
        file.write('{"run": "0123456789abcdef", "epoch": 1}\n')
    ended = {json.loads(line)["run"] for line in
             (tmp_path / "study" / "runs.jsonl").read_text().splitlines()[:-1]}  # fmt: skip
    again = []
    resumed = study(
        TINY, **arguments, resume=True, tell=Listener(run=lambda o, *_: again.append(o.run.key))
    )
    assert ended
    assert not ended & set(again)
    assert len(ended) + len(again) == 6
    assert (resumed.path / "study.json").read_bytes() == (whole.path / "study.json").read_bytes()
    epochs = [json.loads(line) for line in (resumed.path / "epochs.jsonl").read_text().splitlines()]
    assert len({(line["run"], line["epoch"]) for line in epochs}) == len(epochs) == 9


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]], ids=len)
def test_fast_runs_one_by_one_have_the_bits_of_the_unbroken_study(seeds, digits, tmp_path):
    """However few are left: one run of three is not spread over the devices then."""
    fast = dataclasses.replace(TINY, determinism="fast")
    arguments = {"seeds": seeds, "dataset": digits, "study_dir": tmp_path / "study", "how": "map"}
    before = study(fast, **arguments).summary
    kept = (tmp_path / "study" / "runs.jsonl").read_text().splitlines(keepends=True)[:-1]
    (tmp_path / "study" / "runs.jsonl").write_text("".join(kept))
    assert study(fast, **arguments, resume=True).summary == before


def test_every_source_has_rows_by_its_own_seeds(digits, tmp_path):
    found = study(TINY, [5, 6], vary=["init", "all"], dataset=digits, study_dir=tmp_path / "study")
    assert [(row["vary"], row["seed"]) for row in found.rows] == [
        ("init", 5), ("init", 6), ("all", 5), ("all", 6),
    ]  # fmt: skip
    assert [list(s["params_digests"]) for s in found.summary["settings"]] == [["5", "6"]] * 2


@pytest.mark.slow
def test_values_that_are_pairs_can_be_resumed(digits, tmp_path):
    arguments = {"seeds": [0, 1], "grid": {"layers": [TINY.layers]}, "dataset": digits,
                 "study_dir": tmp_path / "study"}  # fmt: skip
    with pytest.raises(ConfigError):  # layers come by their plain form
        study(TINY, **arguments)
    pooled = dataclasses.replace(TINY, layers=(MaxPool(2), *TINY.layers))
    arguments["grid"] = {"layers.0.size": [(2, 2), (2, 1)]}
    arguments["study_dir"] = tmp_path / "pairs"
    first = study(pooled, **arguments)
    assert study(pooled, **arguments, resume=True).rows == first.rows


def test_resumed_on_other_data_it_stops(whole, digits, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(whole.path, folder)
    rows = (folder / "runs.jsonl").read_text().replace(digits.digest, "0" * 64)
    (folder / "runs.jsonl").write_text(rows)
    (folder / "digests.json").unlink()  # they are whole, and of other data
    with pytest.raises(DataError, match="this is other data"):
        study(TINY, [0, 1, 2], grid={"learning_rate": [0.05, 3e38]}, name="tiny", dataset=digits,
              study_dir=folder, resume=True)  # fmt: skip
    assert (folder / "runs.jsonl").read_text() == rows


def test_resumed_with_other_settings_of_jax_it_stops(whole, digits, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(whole.path, folder)
    before = json.loads((folder / "env.json").read_text())
    before["jax"]["jax_enable_x64"] = True
    (folder / "env.json").write_text(text := json.dumps(before))
    (folder / "digests.json").unlink()
    with pytest.raises(ConfigError, match="jax_enable_x64 was True, now False"):
        study(TINY, [0, 1, 2], grid={"learning_rate": [0.05, 3e38]}, name="tiny", dataset=digits,
              study_dir=folder, resume=True)  # fmt: skip
    assert (folder / "env.json").read_text() == text


def test_a_damaged_row_loses_nothing(whole, digits, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(whole.path, folder)
    lines = (folder / "runs.jsonl").read_bytes().splitlines(keepends=True)
    for line, said in ((b"\xff" + lines[1], "is damaged"), (b"{}\n", "lacks run, seed")):
        damaged = b"".join([lines[0], line, *lines[2:]])
        (folder / "runs.jsonl").write_bytes(damaged)
        (folder / "digests.json").unlink()  # as where the process was killed
        with pytest.raises(CheckpointError, match=rf"runs\.jsonl: line 2 {said}"):
            study(TINY, [0, 1, 2], grid={"learning_rate": [0.05, 3e38]}, name="tiny",
                  dataset=digits, study_dir=folder, resume=True)  # fmt: skip
        assert (folder / "runs.jsonl").read_bytes() == damaged
    assert (folder / "study.json").read_bytes() == (whole.path / "study.json").read_bytes()


def test_what_is_damaged_is_made_again_from_what_is_whole(whole, digits, tmp_path, caplog):
    """A bit of a figure in a row, and one of study.json: the run is trained again, same bits."""
    folder = tmp_path / "study"
    shutil.copytree(whole.path, folder)
    lines = (folder / "runs.jsonl").read_text().splitlines(keepends=True)
    row = json.loads(lines[1])
    lines[1] = json.dumps({**row, "test_accuracy": 0.5}) + "\n"
    (folder / "runs.jsonl").write_text("".join(lines))
    (folder / "study.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"study\.json: is damaged"):
        read_study(folder)
    (folder / "study.json").write_bytes((whole.path / "study.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"runs\.jsonl: line 2 is damaged"):
        read_study(folder)
    (folder / "study.json").write_text("{}")
    again = []
    found = study(TINY, [0, 1, 2], grid={"learning_rate": [0.05, 3e38]}, name="tiny",
                  dataset=digits, study_dir=folder, resume=True,
                  tell=Listener(run=lambda o, *_: again.append(o.run.key)))  # fmt: skip
    assert again == [row["run"]]
    assert "runs.jsonl: line 2 is damaged" in caplog.text
    assert "study.json: is damaged" in caplog.text
    assert found.summary == whole.summary
    assert read_study(folder).summary == whole.summary
    assert (folder / "runs.jsonl.damaged").is_file()


def test_damaged_epochs_are_named_and_the_result_stays(whole, digits, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(whole.path, folder)
    lines = (folder / "epochs.jsonl").read_bytes().replace(b'"epoch": 2', b'"epoch": 3', 1)
    (folder / "epochs.jsonl").write_bytes(lines)
    with pytest.raises(CheckpointError, match=r"epochs\.jsonl: line \d is damaged"):
        study(TINY, [0, 1, 2], grid={"learning_rate": [0.05, 3e38]}, name="tiny", dataset=digits,
              study_dir=folder, resume=True)  # fmt: skip
    assert (folder / "study.json").read_bytes() == (whole.path / "study.json").read_bytes()


def test_more_seeds_may_be_added(digits, tmp_path):
    first = study(TINY, [0, 1], study_dir=tmp_path / "study", dataset=digits)
    told = []
    second = study(TINY, [0, 1, 2], study_dir=tmp_path / "study", dataset=digits, resume=True,
                   tell=Listener(run=lambda o, *_: told.append(o.run.seed)))  # fmt: skip
    assert told == [2]
    assert second.rows[:2] == first.rows


@pytest.mark.parametrize(("change", "words"), [
    ({"config": dataclasses.replace(TINY, epochs=3)}, r"another recipe \(epochs differ\)"),
    ({"seeds": [1, 2]}, r"\(seeds 0 differ\)"),
    ({"grid": {"learning_rate": [0.1]}}, r"\(grid differ\)"),
    ({"vary": ["order"]}, r"\(vary differ\)"),
])  # fmt: skip
def test_another_study_is_not_resumed(change, words, whole, digits):
    same = {"config": TINY, "seeds": [0, 1, 2], "grid": {"learning_rate": [0.05, 3e38]}}
    before = (whole.path / "plan.json").read_bytes()
    with pytest.raises(ConfigError, match=words):
        study(**{**same, "name": "tiny", **change}, study_dir=whole.path, dataset=digits,
              resume=True)  # fmt: skip
    assert (whole.path / "plan.json").read_bytes() == before


def test_delivery_settings_may_change_when_a_study_is_resumed(whole, digits, tmp_path):
    shutil.copytree(whole.path, tmp_path / "study")
    other = dataclasses.replace(TINY, data_memory=10**9, workers=1, input="resident")
    again = study(other, [0, 1, 2], grid={"learning_rate": [0.05, 3e38]}, name="tiny",
                  study_dir=tmp_path / "study", dataset=digits, resume=True)  # fmt: skip
    assert again.rows == whole.rows


def test_a_folder_in_use_or_of_something_else(whole, digits, tmp_path):
    with pytest.raises(ConfigError, match="holds a study already; add --resume"):
        study(TINY, [0], study_dir=whole.path, dataset=digits)
    (tmp_path / "letters").write_text("mine")
    with pytest.raises(ConfigError, match="holds letters but no study"):
        study(TINY, [0], study_dir=tmp_path, dataset=digits)


def test_other_refusals(digits, tmp_path):
    with pytest.raises(ConfigError, match="how=vmap does not work with determinism=exact"):
        study(TINY, [0], how="vmap", dataset=digits, study_dir=tmp_path / "a")
    with pytest.raises(ConfigError, match=r"how must be auto, vmap or map \(got 'mpa'"):
        study(TINY, [0], how="mpa", dataset=digits, study_dir=tmp_path / "a")
    with pytest.raises(ConfigError, match="dataset must have one value in a study"):
        study(TINY, [0], grid={"dataset": ["digits", "mnist"]}, dataset=digits,
              study_dir=tmp_path / "b")  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"--max-memory must be at least .* bytes, one run on each device"
    ):
        study(TINY, [0], max_memory=1000, dataset=digits, study_dir=tmp_path / "c")
    assert not any(path.read_text() for path in tmp_path.glob("*/runs.jsonl"))


class TestWidth:
    def test_memory(self):
        assert parse_memory("2G") == parse_memory("2 GiB") == 2 * 1024**3
        assert parse_memory("512m") == 512 * 1024**2
        assert parse_memory("1.5K") == 1536
        for text in ("", "much", "-1G", "0", "1X"):
            with pytest.raises(ConfigError, match="--max-memory must be a size"):
                parse_memory(text)

    @pytest.mark.slow
    def test_as_many_as_there_are_and_fit(self, digits, monkeypatch):
        from flaxcnn.studies.groups import grouped
        from flaxcnn.studies.plan import plan_runs
        from flaxcnn.studies.runs import JobPool

        fast = dataclasses.replace(TINY, determinism="fast")
        group = grouped(plan_runs(fast, range(12)), digits)[0]  # 3 on each of 4 devices
        pool = JobPool(digits)
        pool.prepare(group)
        jobs = pool.jobs
        choose = lambda how, memory=None: widths.choose_width(group, jobs, how, memory)  # noqa: E731
        assert choose("map") == 1
        assert choose("vmap") == 3
        assert choose("auto") == 1, "a study of seconds has nothing to win"
        monkeypatch.setattr(widths, "LEAST_SECONDS", 0)
        assert choose("auto") in (1, 2, 3)
        monkeypatch.setattr(widths, "_seconds_of_a_run", lambda jobs, width, *_: 1 / width)
        assert choose("auto") == 3
        monkeypatch.setattr(widths, "_seconds_of_a_run", lambda jobs, width, *_: float(width))
        assert choose("auto") == 1
        assert choose("vmap", 4 * widths._bytes(widths._short(jobs[0]), 2)) == 2

    def test_a_trial_leaves_the_programs_of_the_runs_alone(self, digits):
        """Few batches, the last one dropped: a trial has as many rows as the run."""
        from flaxcnn.studies.groups import grouped
        from flaxcnn.studies.plan import plan_runs
        from flaxcnn.studies.runs import JobPool

        few = dataclasses.replace(TINY, batch_size=256, drop_last=True, determinism="fast")
        pool = JobPool(digits)
        pool.prepare(grouped(plan_runs(few, range(8)), digits)[0])
        job = pool.jobs[0]
        short = widths._short(job)
        assert short.plan.steps_per_epoch == job.plan.steps_per_epoch
        short.train_program(short.init())
        assert not job.programs.programs

    @pytest.mark.slow
    def test_it_is_measured_once_for_networks_alike(self, digits, tmp_path, monkeypatch):
        """Another activation is no reason to measure again; another size is."""
        measured = []
        monkeypatch.setattr(campaign, "choose_width", lambda *args: measured.append(args) or 1)
        layers = (Flatten(), Dense(8, activation="relu"), Dense(10))
        fast = dataclasses.replace(TINY, layers=layers, determinism="fast", epochs=1)
        grid = {"layers.1.activation": ["relu", "sigmoid"]}
        study(fast, range(2), grid=grid, study_dir=tmp_path / "a", dataset=digits)
        assert len(measured) == 1
        study(fast, range(2), grid={"layers.1.units": [4, 5]}, study_dir=tmp_path / "b",
              dataset=digits)  # fmt: skip
        assert len(measured) == 3

    def test_exact_runs_are_never_side_by_side(self, digits):
        from flaxcnn.studies.groups import grouped
        from flaxcnn.studies.plan import plan_runs
        from flaxcnn.studies.runs import JobPool

        group = grouped(plan_runs(TINY, range(12)), digits)[0]
        pool = JobPool(digits)
        pool.prepare(group)
        assert widths.choose_width(group, pool.jobs, "auto", None) == 1


def test_interrupted_between_epochs(digits, tmp_path):
    import signal

    def stop(outcome, ended, planned):
        if ended == 1:  # a second signal would end this process
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(InterruptedRun, match=r"SIGTERM: \d+ of 80 runs have ended") as caught:
        # Many: what is left must take longer than the main thread takes to hear of a signal.
        study(
            TINY, range(80), study_dir=tmp_path / "study", dataset=digits, tell=Listener(run=stop)
        )
    assert caught.value.exit_code == 75
    assert json.loads((tmp_path / "study" / "status.json").read_text())["status"] == "interrupted"


def test_a_damaged_plan_is_named(whole, digits, tmp_path):
    (tmp_path / "study").mkdir()
    plan = json.loads((whole.path / "plan.json").read_text())
    for text, said in (
        ("{", "is damaged"), ("[]", "is damaged"), ("{}", "lacks experiment"),
        (json.dumps(plan | {"config": []}), r"config is \[\]"),
        (json.dumps(plan | {"seeds": 3}), "seeds is 3"),
    ):  # fmt: skip
        (tmp_path / "study" / "plan.json").write_text(text)
        with pytest.raises(CheckpointError, match=rf"plan\.json: {said}"):
            study(TINY, [0], study_dir=tmp_path / "study", dataset=digits, resume=True)
