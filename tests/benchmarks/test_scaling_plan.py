"""The plan's arithmetic: by hand, and what must grow with what."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import scaling_plan as plan
from benchmarks.scaling_plan import Level

POSITIVE = st.floats(1e-6, 1e9)
SIZES = st.integers(1, 600)
NETWORK = plan.network("cifar-tuning/model1")
FABRICS = {fabric.name: fabric for fabric in plan.fabrics()}


def test_one_ring_by_hand():
    # 4 chips, 8 MB, 1 GB/s: each link carries 2 * 3/4 * 8 MB = 12 MB; 6 steps of 1 ms, 3 times.
    ring = Level(4, 1e9, 1e-3)
    assert plan.all_reduce(8e6, 3, [ring]) == pytest.approx(12e-3 + 18e-3)


def test_two_levels_by_hand():
    # The second level has a quarter of the bytes: 2 * 1/2 * 2 MB over 100 MB/s.
    # A tree of 2 takes one step each way; each of 2 exchanges starts for 5 ms.
    levels = [Level(4, 1e9, 0.0), Level(2, 1e8, 1e-3, "tree")]
    expected = 12e-3 + 20e-3 + 2 * 2e-3 + 2 * 5e-3
    assert plan.all_reduce(8e6, 2, levels, start=5e-3) == pytest.approx(expected)


def test_a_step_by_hand():
    assert plan.step_time(compute=0.3, feed=0.1, exchange=0.25) == pytest.approx(0.55)
    assert plan.step_time(compute=0.3, feed=0.4, exchange=0.25) == pytest.approx(0.65)
    # Half of the backward pass of 0.2 s hides 0.1 s.
    assert plan.step_time(0.3, 0.1, 0.25, overlap=0.5) == pytest.approx(0.45)
    assert plan.step_time(0.3, 0.1, 0.05, overlap=1) == pytest.approx(0.3)


def test_failures_by_hand():
    assert plan.mtbf(10, 3600.0) == 360
    assert plan.interval(2.0, 900.0) == 60
    # 2/60 saving, 30 s and 90 s of every 900.
    assert plan.lost(2.0, 60.0, 900.0, 90.0) == pytest.approx(1 / 30 + 120 / 900)
    # Llama 3: one failure in about three hours on 2,048 nodes.
    assert plan.mtbf(2048, plan.given("node_mtbf")) / 3600 == pytest.approx(3.09, abs=0.01)


def test_networks_are_the_catalogs():
    assert NETWORK.params == 2_395_562
    assert NETWORK.gradient_bytes == 4 * NETWORK.trainable
    assert NETWORK.image_bytes == 32 * 32 * 3
    resnet = plan.network("resnet18-cifar")
    assert resnet.params == 11_183_562
    assert resnet.exchanges > 2 * 20  # 20 batch normalisations
    assert all(0 < plan.network(name).cpu_share <= 1 for name in plan.NETWORKS)


@pytest.mark.parametrize("fabric", FABRICS.values(), ids=FABRICS)
@pytest.mark.parametrize("chips", plan.CHIPS)
def test_levels_make_up_the_chips(fabric, chips):
    assert math.prod(level.size for level in fabric.shapes[chips]) == chips


@given(POSITIVE, POSITIVE, SIZES, SIZES, POSITIVE)
def test_an_all_reduce_grows_with_bytes_and_chips(one, other, small, large, bandwidth):
    few, many = sorted((small, large))
    less, more = sorted((one, other))
    assert plan.all_reduce(less, 1, [Level(few, bandwidth, 1e-6)]) <= plan.all_reduce(
        more, 1, [Level(many, bandwidth, 1e-6)]
    )


@given(POSITIVE, SIZES, POSITIVE, POSITIVE)
def test_an_all_reduce_shrinks_with_bandwidth(nbytes, size, one, other):
    slow, fast = sorted((one, other))
    assert plan.all_reduce(nbytes, 1, [Level(size, fast, 0)]) <= plan.all_reduce(
        nbytes, 1, [Level(size, slow, 0)]
    )


@given(st.sampled_from(sorted(FABRICS)), st.sampled_from(plan.CHIPS), st.floats(1, 1e5))
def test_efficiency_is_a_share(fabric, chips, batch):
    alone = plan.step(NETWORK, FABRICS[fabric], 1, batch)
    together = plan.step(NETWORK, FABRICS[fabric], chips, batch)
    assert alone["all_reduce"] == 0 < together["all_reduce"]
    assert 0 < alone["step"] / together["step"] <= 1


@given(st.sampled_from(sorted(FABRICS)), st.sampled_from(plan.CHIPS))
def test_the_hiding_batch_hides_and_no_smaller_one_does(fabric, chips):
    batch = plan.hiding_batch(NETWORK, FABRICS[fabric], chips)
    exchange = plan.step(NETWORK, FABRICS[fabric], chips, batch)["all_reduce"]

    def backward(images):
        return plan.compute(NETWORK, FABRICS[fabric], images) * 2 / 3

    assert backward(batch) >= exchange * (1 - 1e-9)
    assert batch == 1 or backward(batch - 1) < exchange


@given(st.floats(0.1, 100), st.floats(1e3, 1e8), st.floats(0.1, 10))
def test_no_interval_loses_less_than_youngs(save, between, factor):
    best = plan.interval(save, between)
    least = plan.lost(save, best, between, 0)
    assert plan.lost(save, best * factor, between, 0) >= least * (1 - 1e-9)


@given(st.integers(1, 999), st.integers(1, 999))
def test_more_nodes_fail_more_often(one, other):
    few, many = sorted((one, other))
    assert plan.mtbf(many, 1e6) <= plan.mtbf(few, 1e6)


def test_the_page_and_its_file_are_what_the_plan_gives():
    """Figures are never typed: change an assumption, then `--json --page`."""
    document = json.loads(plan.RESULTS.read_text())
    assert document == json.loads(json.dumps(plan.plan()))
    assert plan.PAGE.read_text() == plan.with_tables(plan.PAGE.read_text(), document)
    assert plan.PAGE.read_text().startswith("# Scaling out: the plan")


def test_every_assumption_has_a_source():
    assert all(one.source and one.unit for one in plan.ASSUMPTIONS.values())
    assert plan.plan()["plan"] is True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5e-5, "25 µs"), (0.0123, "12.3 ms"), (59, "59 s"), (7200, "120 min"), (1e5, "27.8 h")],
)
def test_durations_read_well(seconds, text):
    assert plan.duration(seconds) == text


def test_what_compilers_estimate_is_shown_where_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "COMPILED", tmp_path)
    assert plan.compiled() == []
    assert "arithmetic\nbounds and no estimates" in plan.compiled_table({"compiled": []})
    row = {"experiment": "mnist-ladder/model10", "target": "v5e", "devices": 1, "kernels": 9,
           "program": "train_epoch", "implementation": "flaxcnn", "precision": "float32",
           "cycles": 150_000, "bytes_accessed": 243e6}  # fmt: skip
    rows = [row, {**row, "target": "h200", "cycles": None}, {**row, "implementation": "flax"},
            {**row, "devices": 8}, {**row, "experiment": "digits/quickstart"}]  # fmt: skip
    (tmp_path / "compiled-x.json").write_text(json.dumps({"results": rows}))
    found = plan.compiled()
    assert [one["target"] for one in found] == ["v5e", "h200"]
    *_, first, second = plan.compiled_table({"compiled": found}).splitlines()
    assert first == "| mnist-ladder/model10 | v5e | float32 | 150,000 | 99.8 µs | 243 MB |"
    assert second == "| mnist-ladder/model10 | h200 | float32 | – | – | 243 MB |"
