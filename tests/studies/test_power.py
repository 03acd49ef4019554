"""How many seeds a plan needs: against R's figures, against trials, and from a pilot study."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from flaxcnn.errors import ConfigError
from flaxcnn.studies.power import power
from flaxcnn.studies.verdict import attained_power

TRIALS = 4000  # of one power
SIGMAS = 4  # of the share of trials that find the difference


@pytest.mark.parametrize(
    ("difference", "sd", "correlation", "seeds"),
    [
        # R 4.3: ceiling of power.t.test(delta, sd, power = 0.8)$n, type "two.sample" and "paired"
        (0.003, 0.0045, None, 37),
        (1.0, 1.0, None, 17),
        (0.5, 1.0, None, 64),
        (0.5, 1.0, 0.5, 34),
        (1.0, 1.0, 0.5, 10),
    ],
)
def test_seeds_are_those_of_r(difference, sd, correlation, seeds):
    assert power(difference, sd, correlation=correlation).seeds.seeds == seeds


@pytest.mark.parametrize("paired", [False, True])
def test_power_is_the_share_of_trials_that_find_it(paired):
    n, difference, sd = 7, 0.8, 0.6
    draws = np.random.default_rng(0)
    a, b = draws.normal(difference, sd, (TRIALS, n)), draws.normal(0, sd, (TRIALS, n))
    found = (stats.ttest_1samp(a, 0.0, axis=1) if paired else stats.ttest_ind(a, b, axis=1)).pvalue
    expected = attained_power(n, difference, sd, paired, 0.05)
    assert abs((found < 0.05).mean() - expected) < SIGMAS * math.sqrt(expected / TRIALS)


def test_the_smallest_difference_is_found_with_just_the_power_asked_for():
    plan = power(sd=0.01, power=0.9, comparisons=4)
    assert plan.seeds is None
    for n, smallest, chance in plan.detectable:
        assert chance is None
        assert attained_power(n, smallest, 0.01, False, 0.05 / 4) == pytest.approx(0.9, abs=1e-3)


@pytest.fixture
def pilot(tmp_path):
    """A study of two settings with other means and the same spread."""
    draws, rows = np.random.default_rng(1), []
    for number in range(2):
        values = 0.9 + 0.05 * number + draws.normal(0, 0.004, 6)
        rows += [{"run": f"{number}{seed}", "seed": seed, "setting": {"epochs": number + 1},
                  "vary": "all", "status": "complete", "test_accuracy": float(value),
                  "test_rows": 1000, "fingerprint": "f", "params": 1, "kept_epoch": 1,
                  "best_epoch": 1, "epochs_run": 1, "val_accuracy": 0.9, "experiment": "x",
                  "protocol": "honest", "data_digest": "d", "split_digest": "s",
                  "dead_layers": []} for seed, value in enumerate(values)]  # fmt: skip
    plan = {"experiment": "x", "config": {}, "seeds": list(range(6)), "grid": {}, "vary": [],
            "how": "auto"}  # fmt: skip
    settings = [{"setting": {"epochs": n}, "vary": "all", "label": f"epochs={n}", "metrics": {},
                 "diverged": [], "dead": []} for n in (1, 2)]  # fmt: skip
    summary = {"experiment": "x", "planned": 12, "complete": 12, "settings": settings}
    for name, value in (("plan", plan), ("study", summary), ("env", {})):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "epochs.jsonl").write_text("")
    return tmp_path, np.array([row["test_accuracy"] for row in rows]).reshape(2, 6)


def test_a_pilot_gives_its_spread_around_the_means_of_its_settings(pilot):
    path, values = pilot
    plan = power(0.003, pilot=path)
    assert plan.sd == pytest.approx(math.sqrt(values.var(axis=1, ddof=1).mean()))
    low, high = plan.sd_interval
    tails = stats.chi2.ppf([0.975, 0.025], 10)  # two settings of six seeds
    np.testing.assert_allclose([low, high], plan.sd * np.sqrt(10 / tails))
    assert plan.seeds.seeds < plan.at_most.seeds
    mean = values.mean()
    assert plan.floor == pytest.approx(math.sqrt(mean * (1 - mean) / 1000))
    text = str(plan)
    assert "12 runs around the means of 2 settings" in text
    assert json.loads(json.dumps(plan.to_dict()))["seeds"]["seeds"] == plan.seeds.seeds


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"difference": 0.1}, "needs one of --sd and --pilot"),
        ({"difference": 0.0, "sd": 0.1}, "difference must not be 0"),
        ({"sd": -1.0}, "sd must be a number above 0"),
        ({"sd": 0.1, "correlation": 1.0}, "correlation must be from -1 to below 1"),
        ({"sd": 0.1, "comparisons": 0}, "comparisons must be an integer of at least 1"),
        ({"sd": 0.1, "power": 1.0}, "power must be a number between 0 and 1"),
    ],
)
def test_what_cannot_be_planned(given, message):
    with pytest.raises(ConfigError, match=message):
        power(**given)


def test_a_metric_that_the_pilot_lacks(pilot):
    with pytest.raises(ConfigError, match="did you mean 'test_accuracy'"):
        power(0.003, pilot=pilot[0], metric="test_acuracy")
