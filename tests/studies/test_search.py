"""A search scores candidates on rows they have not seen, and loses nothing."""

import contextlib
import csv
import dataclasses
import json
import shutil
import signal

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import TINY

import flaxcnn
from flaxcnn.data import splits
from flaxcnn.data.arrays import dataset
from flaxcnn.engine.resident import ResidentJob
from flaxcnn.errors import ConfigError, DivergedError, InterruptedRun, OutOfMemoryError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Conv, Dense, Flatten, MaxPool
from flaxcnn.recipe.optimizers import Cosine
from flaxcnn.recipe.resize import Resize
from flaxcnn.recipe.splits import Archive, Fold, Ranges
from flaxcnn.reports.report import make, read
from flaxcnn.studies import ranking
from flaxcnn.studies import search as studies_search
from flaxcnn.studies.candidates import Candidates
from flaxcnn.studies.events import Listener
from flaxcnn.studies.plan import Scoring, longest
from flaxcnn.studies.search import campaign_of, plan_search, refit_winner, search_candidates

SMALL = dataclasses.replace(
    TINY, layers=(Flatten(), Dense(10)), epochs=2, determinism="exact", evaluate_train=False
)


def wanted(**changes):
    """SMALL and variants of it by their settings."""
    found = [({}, SMALL)]
    for key, values in changes.items():
        found += [({key: v}, dataclasses.replace(SMALL, **{key: v})) for v in values]
    return found


FOLDS = Scoring(folds=3)


# -- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [Archive(), Ranges(700, 100, 300)], ids=["archive", "ranges"])
def test_folds_partition_what_may_be_trained_on(digits, of):
    """Each such row is scored once; none of the split's own test rows is seen."""
    own = splits.choose(digits, dataclasses.replace(SMALL, split=of))
    scored = []
    for index in range(4):
        rows = splits.choose(digits, dataclasses.replace(SMALL, split=Fold(index, 4, 0, of)))
        parts = [set(part.tolist()) for part in (rows.train, rows.validation, rows.test)]
        assert not parts[0] & parts[1]
        assert not (parts[0] | parts[1]) & parts[2]
        assert not (parts[0] | parts[1] | parts[2]) & set(own.test.tolist())
        scored.append(rows.test)
    every = np.sort(np.concatenate(scored))
    np.testing.assert_array_equal(every, np.sort(np.concatenate([own.train, own.validation])))


def test_the_documents_way_chooses_on_the_fold_that_scores(digits):
    config = dataclasses.replace(
        SMALL, protocol="document", validation="test", split=Fold(0, 4)
    )  # fmt: skip
    rows = splits.choose(digits, config)
    np.testing.assert_array_equal(rows.validation, rows.test)


@pytest.mark.parametrize(("index", "count"), [(5, 5), (-1, 5), (0, 1)])
def test_folds_that_are_none(index, count):
    with pytest.raises(ConfigError, match=r"split\.(index|folds) must be"):
        Fold(index, count)


def test_a_fold_survives_json():
    config = dataclasses.replace(SMALL, split=Fold(2, 5, 1, Ranges(50, 5, 5)))
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


# -- plan ----------------------------------------------------------------------------------------


def test_what_cannot_be_tried_is_named(digits):
    deep = (*[Conv(4, 3), MaxPool(2)] * 3, Flatten(), Dense(10))
    base = dataclasses.replace(SMALL, dataset="npz:x")  # of no known shape
    wide = (Flatten(), Dense(99), Dense(10))
    tried = [({}, base), ({"depth": 3}, dataclasses.replace(base, layers=deep)),
             ({"wide": 1}, dataclasses.replace(base, layers=wide))]  # fmt: skip
    found = Candidates.of(tried, digits, max_params=1000)
    assert [one.label for one in found.tried] == ["unchanged"]
    assert [one.label for one in found.dropped] == ["depth=3", "wide=1"]
    assert "parameters are more than max_params=1,000" in found.dropped[1].reason
    with pytest.raises(ConfigError, match=r"no candidate is left \(unchanged: 650 parameters"):
        Candidates.of(wanted(), digits, max_params=10)


def test_the_same_recipe_is_tried_once(digits):
    found = Candidates.of(wanted(learning_rate=[0.05, 0.1]), digits)
    assert [one.label for one in found.tried] == ["unchanged", "learning_rate=0.1"]
    assert found.dropped[0].reason == "is the same recipe as the recipe unchanged"


def test_shorter_runs_are_read_off_longer_ones(digits):
    found = Candidates.of(wanted(epochs=[1, 3]), digits).tried
    runs = plan_search(found, Scoring(3, 2, (0, 1)))
    assert len(runs) == 3 * 3 * 2 * 2
    trained = longest(runs)
    assert len(trained) == len(runs) / 3
    assert {run.config.epochs for run in trained} == {3}
    assert {short.config.epochs for run in trained for short in run.shorter} == {1, 2}


def test_a_schedule_over_all_epochs_is_not_cut_short(digits):
    spanned = [(s, dataclasses.replace(c, schedule=Cosine())) for s, c in wanted(epochs=[1, 3])]
    found = Candidates.of(spanned, digits).tried
    runs = plan_search(found, Scoring(2))
    assert len(longest(runs)) == len(runs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 1, (0,)), "--folds must be at least 2"),
        ((2, 0, (0,)), "--repeats must be at least 1"),
        ((2, 1, ()), "seeds"),
    ],
)
def test_scorings_that_are_none(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Scoring(*arguments)


# -- the whole -----------------------------------------------------------------------------------

TRIED = {"learning_rate": [0.2, 3e38], "epochs": [1]}


def candidates(digits, **values):
    """The recipe as it is, and others that it must be beaten by."""
    return Candidates.of(wanted(**values), digits, incumbent="unchanged")


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """A search that nobody touched: the recipe, a better rate, one that diverges, a shorter run."""
    campaign = campaign_of(FOLDS, digits, tmp_path_factory.mktemp("whole") / "search", name="tiny")
    return search_candidates(candidates(digits, **TRIED), FOLDS, campaign)


def test_what_a_search_finds(whole):
    rows = {row["label"]: row for row in whole.summary["candidates"]}
    assert len(whole.rows) == 4 * 3
    assert whole.summary["trained"] == 3 * 3
    assert rows["learning_rate=3e+38"]["diverged"] == 3
    assert rows["learning_rate=3e+38"]["mean"] is None
    assert whole.summary["candidates"][-1]["label"] == "learning_rate=3e+38"
    assert whole.summary["winner"] in ("unchanged", "learning_rate=0.2")
    assert whole.summary["refit"]["test_rows"] == 360
    assert rows["epochs=1"]["against_incumbent"]["difference"] == pytest.approx(
        rows["epochs=1"]["mean"] - rows["unchanged"]["mean"]
    )
    written = json.loads((whole.path / "search.json").read_text())
    assert written["winner"] == whole.summary["winner"]
    assert "trained on the whole training split" in (whole.path / "README.md").read_text()


def test_a_shorter_run_has_the_bits_of_its_own_training(whole, digits, tmp_path):
    alone = Candidates.of([({}, dataclasses.replace(SMALL, epochs=1))], digits)
    own = search_candidates(alone, FOLDS, campaign_of(FOLDS, digits, tmp_path / "own"), refit=False)
    read_off = {row["seed"]: row for row in whole.rows if row["setting"].get("epochs") == 1}
    assert len(read_off) == 1
    pairs = [(row["setting"]["fold"], row["params_digest"]) for row in own.rows]
    other = [(row["setting"]["fold"], row["params_digest"]) for row in whole.rows
             if row["setting"].get("epochs") == 1]  # fmt: skip
    assert sorted(pairs) == sorted(other)


def test_killed_and_resumed_nothing_is_repeated_or_lost(whole, digits, tmp_path):
    tried, told = candidates(digits, **TRIED), []

    def stop(outcome, ended, planned):
        told.append(outcome.run.key)
        if ended == 4:
            signal.raise_signal(signal.SIGTERM)

    campaign = campaign_of(FOLDS, digits, tmp_path / "s", name="tiny", listener=Listener(run=stop))
    with contextlib.suppress(InterruptedRun):  # a fast machine is done before it hears
        search_candidates(tried, FOLDS, campaign)
    note = Listener(run=lambda outcome, *_: told.append(outcome.run.key))
    resumed = dataclasses.replace(campaign, resume=True, listener=note)
    again = search_candidates(tried, FOLDS, resumed)
    assert len(told) == len(set(told)) == 12
    digests = lambda result: [row.get("params_digest") for row in result.rows]  # noqa: E731
    assert digests(again) == digests(whole)
    timeless = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]  # noqa: E731
    assert timeless(again.summary["candidates"]) == timeless(whole.summary["candidates"])


def test_from_python_the_recipe_is_the_one_to_beat(digits, tmp_path):
    found = flaxcnn.search(SMALL, {"learning_rate": [0.2, 0.3]}, folds=3, dataset=digits,
                           search_dir=tmp_path / "s", refit=False)  # fmt: skip
    table = found.to_dict()
    assert set(table["label"]) == {"unchanged", "learning_rate=0.2", "learning_rate=0.3"}
    assert {len(column) for column in table.values()} == {3}
    assert table["mean"] == sorted(table["mean"], reverse=True)
    found.to_csv(tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == table["label"]
    assert (tmp_path / "table.csv").read_text() == (found.path / "candidates.csv").read_text()
    incumbent = table["label"].index("unchanged")
    assert table["against_incumbent.verdict"][incumbent] is None
    with pytest.raises(ConfigError, match="search needs either grid"):
        flaxcnn.search(SMALL, {}, dataset=digits)


@pytest.mark.parametrize(
    ("setting", "changes"),
    [
        ("dataset", {"dataset": "mnist"}),
        ("resize", {"dataset": "folder:x", "resize": Resize(8, 8)}),
        ("split_seed", {"split_seed": 1}),
        ("split", {"split": Ranges(700, 100, 300)}),
    ],
)
def test_candidates_see_the_same_rows(digits, setting, changes):
    base = dataclasses.replace(SMALL, dataset=changes.get("dataset", SMALL.dataset))
    base = SMALL if setting == "dataset" else base
    other = dataclasses.replace(base, **changes)
    with pytest.raises(
        ConfigError, match=f"{setting} must have one value in a search, .*same rows"
    ):
        Candidates.of([({}, base), ({setting: 1}, other)], digits)


def test_settings_that_make_no_difference_are_said(digits, tmp_path):
    """Two candidates would share every run, and one of them would have all scores."""
    found = Candidates.of(wanted(validation=[0.2]), digits).tried
    assert len(plan_search(found, FOLDS)) == 6
    with pytest.raises(ConfigError, match=r"validation=0\.2 is trained and scored exactly as"):
        plan_search(found, Scoring(3, document=True))
    found = Candidates.of(wanted(data_memory=[10**9]), digits).tried
    with pytest.raises(ConfigError, match="exactly as the recipe unchanged; give settings that"):
        plan_search(found, FOLDS)


def test_a_winner_that_diverges_at_last_loses_no_table(digits, tmp_path, monkeypatch):
    def diverge(*args, **kwargs):
        raise DivergedError("epoch 1: train_loss is nan")

    monkeypatch.setattr(studies_search, "fit", diverge)
    found = Candidates.of(wanted(), digits)
    result = search_candidates(found, FOLDS, campaign_of(FOLDS, digits, tmp_path / "s"))
    assert result.summary["winner"] == "unchanged"
    written = json.loads((result.path / "search.json").read_text())
    assert written["refit_diverged"] == "epoch 1: train_loss is nan"
    assert "The winner diverged" in (result.path / "README.md").read_text()
    assert json.loads((result.path / "status.json").read_text())["status"] == "complete"
    assert "The winner diverged" in " ".join(make([read(result.path)]).warnings)


@pytest.mark.slow
def test_winners_that_change_keep_their_runs(digits, tmp_path):
    """With more seeds another may win, and then the first again."""
    first, second = SMALL, dataclasses.replace(SMALL, learning_rate=0.2)
    campaign = campaign_of(FOLDS, digits, tmp_path)
    digests = [
        refit_winner(campaign, tmp_path, config)["params_digest"]
        for config in (first, second, first, second)
    ]
    assert digests[0] == digests[2] != digests[1] == digests[3]
    kept = [path.name for path in tmp_path.iterdir()]
    assert sorted(kept) == ["refit", f"refit-{first.fingerprint()[:8]}"]


def test_a_search_of_a_version_with_other_labels_is_resumed(whole, digits, tmp_path):
    found = shutil.copytree(whole.path, tmp_path / "s")
    plan = found / "plan.json"
    plan.write_text(plan.read_text().replace('"unchanged"', '"as it is"'))
    (found / "digests.json").unlink()  # as of a version that has none
    campaign = campaign_of(FOLDS, digits, found, name="tiny", resume=True)
    again = search_candidates(candidates(digits, **TRIED), FOLDS, campaign)
    assert again.rows == whole.rows


def test_another_search_is_refused(whole, digits):
    tried = candidates(digits, learning_rate=[0.3])
    campaign = campaign_of(FOLDS, digits, whole.path, name="tiny", resume=True)
    with pytest.raises(ConfigError, match=r"holds another search \(candidates differ\)"):
        search_candidates(tried, FOLDS, campaign)


CHANCE = 0.1  # of ten classes
SIGMAS = 4  # of a share of all training rows: one good search in 15,000 is called a leak


@pytest.mark.slow
def test_a_planted_leak_is_not_used(digits, tmp_path):
    """Labels drawn at random: only who looks at the scoring fold can be better than chance there.

    The documents' way looks, since it keeps the epoch that is best on it.
    """
    draw = np.random.default_rng(0)
    train = dataclasses.replace(
        digits.train, label=draw.permutation(digits.train.label).astype(np.int32)
    )
    data = dataset("shuffled", train, digits.test, digits.classes)
    config = dataclasses.replace(SMALL, epochs=25, learning_rate=0.2)
    found, means = Candidates.of([({}, config)], data), {}
    for document in (False, True):
        scoring = Scoring(folds=4, document=document)
        campaign = campaign_of(scoring, data, tmp_path / str(document))
        result = search_candidates(found, scoring, campaign, refit=False)
        means[document] = result.summary["candidates"][0]["mean"]
        assert result.summary["protocol"] == ("document" if document else "honest")
    sigma = np.sqrt(CHANCE * (1 - CHANCE) / len(train.label))
    assert abs(means[False] - CHANCE) < SIGMAS * sigma
    assert means[True] > means[False]


# -- ranking -------------------------------------------------------------------------------------


def scored(label, values, params=10):
    return ranking.Scored(label, {}, params, {(0, i): [v] for i, v in enumerate(values)})


def test_figures_by_hand():
    """Nadeau and Bengio: s^2 (1/J + n_test/n_train), here 2.5e-4 (1/5 + 1/4), t with 4 degrees."""
    values = [0.80, 0.81, 0.82, 0.83, 0.84]
    found = ranking.rank([scored("a", values), scored("b", [0.80] * 5)], "b", 1 / 4)
    first = found["candidates"][0]
    assert first["label"] == found["winner"] == "a"
    half = 2.7764451052 * np.sqrt(2.5e-4 * (1 / 5 + 1 / 4))
    assert first["low"] == pytest.approx(0.82 - half)
    assert first["high"] == pytest.approx(0.82 + half)
    test = first["against_incumbent"]
    assert test["difference"] == pytest.approx(0.02)
    assert test["verdict"] == "not shown"


def test_p_values_count_all_that_were_tried():
    """A constant difference has no p value, and a candidate given up no scores: both count."""
    against = scored("b", [0.80, 0.81, 0.80, 0.81, 0.80])
    better = scored("a", [0.84, 0.84, 0.85, 0.84, 0.85])
    alone = ranking.rank([better, against], "b", 1 / 4)["candidates"][0]["against_incumbent"]
    assert alone["p_corrected"] == pytest.approx(alone["p"])
    constant = scored("c", [v - 0.1 for v in (0.80, 0.81, 0.80, 0.81, 0.80)])
    for others, given_up in (([constant], 0), ([], 1)):
        found = ranking.rank([better, against, *others], "b", 1 / 4, given_up)
        assert found["candidates"][0]["against_incumbent"]["p_corrected"] == pytest.approx(
            2 * alone["p"]
        )


def test_where_only_the_incumbent_has_scores_nothing_is_compared():
    lost = ranking.Scored("lost", {}, 10, diverged=5)
    found = ranking.rank([scored("kept", [0.8, 0.9]), lost], "kept", 1 / 4)
    assert found["winner"] == "kept"
    assert found["candidates"][1]["against_incumbent"] is None


def test_seeds_are_no_further_folds():
    one, three = scored("a", [0.8, 0.9]), scored("a", [0.8, 0.9])
    three.scores = {place: values * 3 for place, values in three.scores.items()}
    sd = [ranking.rank([each], None, 1)["candidates"][0]["sd"] for each in (one, three)]
    assert sd[0] == pytest.approx(sd[1])


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_is_what_no_other_beats(points):
    found = [scored(str(i), [v / 10] * 2, p) for i, (p, v) in enumerate(points)]
    rows = ranking.rank(found, None, 0.25)["candidates"]
    for row in rows:
        beaten = any(
            other["params"] <= row["params"] and other["mean"] >= row["mean"]
            and (other["params"] < row["params"] or other["mean"] > row["mean"])
            for other in rows
        )  # fmt: skip
        assert row["on_front"] == (not beaten)
    assert sum(row["on_front"] for row in rows) >= 1


def test_of_equals_the_smaller_wins():
    found = ranking.rank([scored("big", [0.9] * 3, 20), scored("small", [0.9] * 3, 10)], None, 0.5)
    assert found["winner"] == "small"


# -- memory --------------------------------------------------------------------------------------


@pytest.fixture
def small_memory(monkeypatch):
    """Programs for batches of more than 100 do not fit."""
    honest = ResidentJob._program

    def compile_(self, function, state, **more):
        if self.config.batch_size > 100:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        return honest(self, function, state, **more)

    monkeypatch.setattr(ResidentJob, "_program", compile_)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["auto", "vmap"])
def test_what_does_not_fit_is_left_out_with_what_is_read_off_it(
    digits, tmp_path, small_memory, how
):
    base = dataclasses.replace(SMALL, batch_size=100, determinism="fast")
    grid = {"batch_size": [50, 200], "epochs": [1, 2]}
    notes = []
    result = flaxcnn.search(base, grid, folds=3, how=how, dataset=digits,
                            search_dir=tmp_path / "s", refit=False,
                            tell=Listener(note=notes.append))  # fmt: skip
    dropped = {one["label"]: one["reason"] for one in result.summary["dropped"]}
    assert set(dropped) == {"batch_size=200, epochs=1", "batch_size=200, epochs=2"}
    assert all("out of memory (" in why for why in dropped.values())
    assert len([text for text in notes if "memory" in text]) == 2 * FOLDS.folds
    assert {row["label"] for row in result.summary["candidates"]} == {
        "unchanged", "batch_size=50, epochs=1", "batch_size=50, epochs=2"
    }  # fmt: skip
    assert result.summary["planned"] == len(result.rows) == 3 * FOLDS.folds


def test_a_hand_made_model_that_does_not_fit_is_not_compared_with(digits, tmp_path, small_memory):
    base = dataclasses.replace(SMALL, batch_size=200)
    result = flaxcnn.search(base, {"batch_size": [50]}, folds=3, dataset=digits,
                            search_dir=tmp_path / "s")  # fmt: skip
    assert result.summary["winner"] == "batch_size=50"
    assert [one["label"] for one in result.summary["dropped"]] == ["unchanged"]
    assert make([read(tmp_path / "s")]).text


def test_nothing_that_fits_is_an_error(digits, tmp_path, small_memory):
    base = dataclasses.replace(SMALL, batch_size=200)
    with pytest.raises(OutOfMemoryError, match="Out of memory allocating 9 bytes"):
        flaxcnn.search(base, {"batch_size": [300]}, folds=3, dataset=digits,
                       search_dir=tmp_path / "s")  # fmt: skip
