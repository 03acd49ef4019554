"""The documents' questions, answered from rows."""

import dataclasses

import made_rows
import pytest

from flaxcnn.recipe import catalog
from flaxcnn.results.figures import Figures
from flaxcnn.results.questions import QUESTIONS, Pair, Question, answers
from flaxcnn.studies.contrasts import compare_paired, holm

A, B, C = (f"mnist-ladder/model{n}" for n in (8, 9, 10))
WOBBLE = (0.0, 0.0004, -0.0003, 0.0002, -0.0002, 0.0005, -0.0004, 0.0001)


def sample(name, mean, *, dead=(), shift=0, seeds=8):
    wobble = WOBBLE[shift:] + WOBBLE[:shift]
    return [
        made_rows.row(name, "honest", s, 0.1135 if s in dead else round(mean + wobble[s], 4),
                      dead=s in dead)
        for s in range(seeds)
    ]  # fmt: skip


def asked(*pairs, **more):
    return Question("Is it so?", "it is.", pairs, **more)


def test_questions_name_what_the_catalog_has():
    known = catalog.experiments()
    for question in QUESTIONS:
        named = [n for pair in question.pairs for n in (pair.own, pair.other)]
        for name in (*named, *question.ranked, *question.dead, *filter(None, [question.grid])):
            assert name in known


def test_without_rows_nothing_is_answered(results):
    for answer in answers(Figures(results)):
        assert "ot answered yet" in answer.head + answer.body


def test_one_common_seed_is_not_enough(results):
    results.add([*sample(A, 0.99, seeds=2), *sample(B, 0.98, seeds=1)])
    (answer,) = answers(Figures(results), [asked(Pair(A, B, "better"))])
    assert answer.head == "Not answered yet: 1 of 8 seeds."


def test_yes_no_and_not_shown(results):
    results.add([*sample(A, 0.992), *sample(B, 0.990, shift=3), *sample(C, 0.9921, shift=5)])
    questions = [asked(Pair(A, B, "better")), asked(Pair(B, A, "better")),
                 asked(Pair(A, C, "equivalent")), asked(Pair(A, C, "better"))]  # fmt: skip
    heads = [answer.head for answer in answers(Figures(results), questions)]
    assert heads == ["Yes.", "No.", "Yes.", "No."]


def test_p_values_are_corrected_over_all_questions(results):
    rows = {name: sample(name, mean, shift=s)
            for name, mean, s in ((A, 0.992, 0), (B, 0.991, 3), (C, 0.9921, 5))}  # fmt: skip
    results.add([row for each in rows.values() for row in each])
    pairs = [(A, B), (A, C), (C, B)]
    found = answers(Figures(results), [asked(Pair(*pair, "better")) for pair in pairs])
    values = {n: {r["seed"]: r["test_accuracy"] for r in each} for n, each in rows.items()}
    raw = [compare_paired(values[a], values[b]) for a, b in pairs]
    contrasts = [answer.contrasts[0] for answer in found]
    assert [c.p for c in contrasts] == pytest.approx(holm([t.p_value for t in raw]))
    for contrast, test in zip(contrasts, raw, strict=True):
        assert contrast.test.interval == test.interval
        assert f"[{test.interval[0]:+.4f}, {test.interval[1]:+.4f}], 8 seeds" in contrast.text


def test_dead_networks_are_left_out_where_asked(results):
    results.add([*sample(A, 0.99, dead=(2,)), *sample(B, 0.98, dead=(5,), shift=2)])
    pair = Pair(A, B, "better", alive=True)
    (answer,) = answers(Figures(results), [asked(pair)])
    assert answer.contrasts[0].seeds == 6
    assert answer.contrasts[0].test.difference == pytest.approx(0.01, abs=0.001)


def test_dead_networks_are_counted(results):
    results.add(sample("mnist-ladder/baseline", 0.92, dead=(0, 2, 4, 6)))
    question = asked(dead=("mnist-ladder/baseline", "mnist-ladder/model1"))
    (answer,) = answers(Figures(results), [question])
    assert "baseline: 4 of 8 are dead, 0.50 [0.22, 0.78]." in answer.body  # Wilson's, by hand
    assert "model1: not answered yet" in answer.body


def test_the_size_that_is_claimed(results):
    results.add([*sample(A, 0.980), *sample(B, 0.990, shift=3), *sample(C, 0.984, shift=5)])
    questions = [asked(Pair(other, B, "worse"), size=-0.01) for other in (A, C)]
    inside, outside = answers(Figures(results), questions)
    assert "-0.0100 is inside that interval" in inside.body
    assert "-0.0100 is outside that interval" in outside.body
    assert (inside.head, outside.head) == ("Yes.", "Yes, but less.")


def test_what_holds_of_networks_that_learn_only(results):
    results.add([*sample(A, 0.990, dead=(2, 4)), *sample(B, 0.985, shift=3)])
    pair = Pair(A, B, "better")
    (answer,) = answers(Figures(results), [asked(pair, dataclasses.replace(pair, alive=True))])
    assert answer.head == "Only of networks that learn."
    assert answer.body.count("(networks that learn)") == 1


def test_one_against_many_is_grouped_by_verdict(results):
    results.add([*sample(A, 0.992), *sample(B, 0.990, shift=3), *sample(C, 0.9921, shift=5)])
    pairs = (Pair(A, B, "better"), Pair(A, C, "better"))
    (answer,) = answers(Figures(results), [asked(*pairs, ranked=(A, B, C))])
    assert answer.head == "Of 1 of 2 comparisons."
    assert answer.body.startswith("Highest means over seeds: model10 0.9921 (n = 8), model8 0.9920")
    assert "model8, better: against model9 +0.0020 [" in answer.body
    assert "model8, equivalent: against model10 -0.0001 [" in answer.body


def test_the_gap_is_larger_or_smaller(results):
    results.add([*sample(A, 0.97), *sample(B, 0.99, shift=3)])  # training accuracy is 1
    (answer,) = answers(Figures(results), [asked(Pair(A, B, "better", metric="gap"))])
    assert answer.head == "Yes."
    assert answer.contrasts[0].text.endswith("larger")


def test_steps_of_a_grid(results):
    scores = {2: 0.97, 3: 0.98, 5: 0.9801}
    found = {
        "folds": 5, "winner": "n_kernel=5",
        "candidates": [
            {"label": f"n_kernel={k}", "setting.n_kernel": k, "mean": mean,
             "scores": [{"repeat": 0, "fold": f, "values": [mean + WOBBLE[f] * k]}
                        for f in range(5)]}
            for k, mean in scores.items()
        ],
    }  # fmt: skip
    made_rows.search(results.search_folder("mnist-archs/grid-kernel", "honest"), found)
    (answer,) = answers(Figures(results), [asked(grid="mnist-archs/grid-kernel")])
    assert [c.name for c in answer.contrasts] == ["3 against 2", "5 against 3"]
    assert [c.word for c in answer.contrasts] == ["better", "not shown"]
    assert "Accuracy over 5 folds: 2 0.9700, 3 0.9800, 5 0.9801; n_kernel=5 won." in answer.body
