"""The documents' open questions, answered by the rows: differences at equal seeds, with intervals.

A question names pairs of experiments and what the document claims of the first against the second.
All pairs of all questions are one family of tests, corrected together (Holm 1979).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from flaxcnn.results.figures import Figures
from flaxcnn.results.rows import changed_settings
from flaxcnn.studies.contrasts import TTest, compare_paired, corrected_resampled_t, holm
from flaxcnn.studies.stats import binomial_floor
from flaxcnn.studies.verdict import verdict

SEEDS = 8  # that a question is meant to be answered by
ALPHA = 0.05
Said = Literal["better", "worse", "equivalent"]
OF_A_GAP = {"better": "larger", "worse": "smaller"}  # a verdict means higher and lower


@dataclass(frozen=True)
class Pair:
    """The first experiment against the second, on the seeds that both have (honest protocol)."""

    own: str
    other: str
    said: Said  # of the first: `better` is a higher value of the metric
    metric: str = "test_accuracy"  # or `gap`, training minus test accuracy
    alive: bool = False  # leave out seeds of which one network is dead


@dataclass(frozen=True)
class Question:
    """What is asked, what the document claims, and which pairs answer it."""

    asked: str
    said: str  # by the document
    pairs: tuple[Pair, ...] = ()
    size: float | None = None  # of the difference, where the document gives one
    ranked: tuple[str, ...] = ()  # experiments of which the best is named
    grid: str = ""  # a search: each value of its one setting against the next smaller
    dead: tuple[str, ...] = ()  # experiments whose dead networks are counted


LADDER = tuple(f"mnist-ladder/{name}" for name in
               ("baseline", *(f"model{number}" for number in range(1, 13))))  # fmt: skip


def _claim(own: str, other: str, said: Said, asked: str, text: str) -> Question:
    """Of two steps of the ladder, of all networks and of those that learn."""
    pair = Pair(f"mnist-ladder/{own}", f"mnist-ladder/{other}", said)
    return Question(asked, text, (pair, replace(pair, alive=True)))


QUESTIONS = (
    Question(
        "Does model10 win the ladder?", "it is the author's choice.",
        tuple(Pair("mnist-ladder/model10", other, "better", alive=True)
              for other in LADDER if other != "mnist-ladder/model10"),
        ranked=LADDER,
    ),
    Question(
        "Do fewer parameters keep their accuracy from model9 to model11?",
        "64,182, 35,030 and 22,410 parameters at 0.993, 0.993 and 0.990.",
        (Pair("mnist-ladder/model10", "mnist-ladder/model9", "equivalent"),
         Pair("mnist-ladder/model11", "mnist-ladder/model10", "equivalent"),
         Pair("mnist-ladder/model11", "mnist-ladder/model9", "equivalent")),
    ),
    Question(
        "Does a larger kernel help?", "a grid over 2, 3, 5, 7 and 11 chose 7.",
        grid="mnist-archs/grid-kernel",
    ),
    Question(
        "Do tanh and glorot_normal cost 1 %?", "one point of accuracy lost.",
        (Pair("mnist-archs/arch2-tanh-glorot", "mnist-archs/arch2", "worse"),), size=-0.01,
    ),
    Question(
        "Does RMSprop equal Adam?", "it has no major impact.",
        (Pair("mnist-archs/arch2-rmsprop", "mnist-archs/arch2", "equivalent"),),
    ),
    Question(
        "Is dropout to blame for overfitting?", "blamed, in a network that has none.",
        (Pair("cifar-tuning/model2", "cifar-tuning/model2-no-dropout", "worse"),
         Pair("cifar-tuning/model2", "cifar-tuning/model2-no-dropout", "better", metric="gap")),
    ),
    Question(
        "Does epsilon 1 of Adamax cost accuracy?", "not seen; it is called Adam.",
        (Pair("cifar-tuning/model4", "cifar-tuning/model4-epsilon-1e-7", "worse"),),
    ),
    Question(
        "How often is a network of one 1x1 filter born dead?", "not seen; it has one seed.",
        dead=("mnist-ladder/baseline", "mnist-ladder/model1"),
    ),
    Question(
        "Does the 47,582-parameter model prefer dropout 0.2?",
        "the grid chose 0.2 for both layers, the final model has 0.2 and 0.4.",
        (Pair("fashion-budget/final-dropout-0.2", "fashion-budget/final", "better"),),
    ),
    _claim("model1", "baseline", "worse", "Does a pool of 2 cost accuracy?", "0.927 to 0.918."),
    _claim("model2", "model1", "better", "Does a filter of 3x3 win some of it back?",
           "0.918 to 0.920."),
    _claim("model2", "baseline", "worse", "Does that stay behind the baseline?",
           "0.920 against 0.927."),
    _claim("model10", "baseline", "better", "Are three convolutions far better than none?",
           "0.993 against 0.927."),
)  # fmt: skip


@dataclass
class Contrast:
    """What one pair shows; `test` is None if fewer than two seeds are common."""

    name: str  # `model10 against model9`
    seeds: int
    unit: str  # what was paired
    said: Said
    samples: tuple[dict[int, float], dict[int, float]] | None = None  # by seed
    rows: int | None = None  # test rows of an accuracy
    test: TTest | None = None
    p: float | None = None  # corrected
    word: str = "not answered"
    metric: str = "test_accuracy"
    alive: bool = False  # whether seeds were left out, since one of the two networks is dead

    @property
    def text(self) -> str:
        """`model10 against model9 +0.0003 [-0.0004, +0.0010], 8 seeds, p = 0.31: not shown`."""
        if self.test is None:
            return f"{self.name}: {self.seeds} of {SEEDS} seeds"
        word = OF_A_GAP.get(self.word, self.word) if self.metric == "gap" else self.word
        return f"{self.name} {self.figures}: {word}"

    @property
    def figures(self) -> str:
        """Difference, interval, n and p."""
        assert self.test is not None
        ends = self.test.interval
        text = f"{self.test.difference:+.4f}"
        text += f" [{ends[0]:+.4f}, {ends[1]:+.4f}]" if ends else ""
        p = "" if self.p is None else ", p < 0.0001" if self.p < 0.0001 else f", p = {self.p:.2g}"
        return f"{text}, {self.seeds} {self.unit}{p}"


@dataclass
class Answer:
    """A question with what its pairs show, in words."""

    question: Question
    contrasts: list[Contrast] = field(default_factory=list)
    head: str = ""
    body: str = ""


def answers(figures: Figures, questions: Sequence[Question] = QUESTIONS) -> list[Answer]:
    """Each question answered, or how many of its seeds are there.

    Verdicts are those of `flaxcnn compare --paired`: better, worse, equivalent (within the binomial
    standard error of the test rows) or not shown, at 5 % after Holm's correction over all pairs.
    Steps of a grid are tested on its folds, as a search does (Nadeau and Bengio 2003).
    """
    answered = [Answer(q, [*(_contrast(figures, p) for p in q.pairs), *_steps(figures, q.grid)])
             for q in questions]  # fmt: skip
    tested = [c for answer in answered for c in answer.contrasts if c.test]
    raw = [1.0 if c.test is None or c.test.p_value is None else c.test.p_value for c in tested]
    for contrast, p in zip(tested, holm(raw) if raw else [], strict=True):
        _decide(contrast, p, len(tested))
    for answer in answered:
        answer.head = _head(answer)
        answer.body = " ".join(filter(None, _body(figures, answer)))
    return answered


def _contrast(figures: Figures, pair: Pair) -> Contrast:
    own, other = figures.of(pair.own, "honest"), figures.of(pair.other, "honest")
    a, b = own.values(pair.metric, pair.alive), other.values(pair.metric, pair.alive)
    common = sorted(a.keys() & b.keys())
    name = f"{_short(pair.own)} against {_short(pair.other)}"
    name += " in the gap of training to test" if pair.metric == "gap" else ""
    left_out = pair.alive and any(len(m.rows) > len(m.living) for m in (own, other))
    name += " (networks that learn)" if left_out else ""
    contrast = Contrast(name, len(common), "seeds", pair.said, metric=pair.metric, alive=left_out)
    if len(common) > 1:
        contrast.samples = {s: a[s] for s in common}, {s: b[s] for s in common}
        contrast.test = compare_paired(*contrast.samples)
        contrast.rows = own.rows[0]["test_rows"] if pair.metric == "test_accuracy" else None
    return contrast


def _decide(contrast: Contrast, p: float, family: int) -> None:
    """Fill in the corrected p value and the verdict."""
    assert contrast.test is not None
    known = contrast.test.p_value is not None
    if contrast.samples is None:  # folds of a search
        contrast.p = p if known else None
        shown = known and p < ALPHA
        better = contrast.test.difference > 0
        contrast.word = ("better" if better else "worse") if shown else "not shown"
        return
    judged = verdict(
        *contrast.samples, p_corrected=p if known else None, paired=True,
        test_rows=contrast.rows, comparisons=family,
    )  # fmt: skip
    contrast.p, contrast.word = judged.p_value, judged.verdict


def _steps(figures: Figures, grid: str) -> list[Contrast]:
    """Of a grid over one setting: each value against the next smaller, fold by fold."""
    record = figures.search(grid) if grid else None
    if record is None:
        return []
    search = record.summary
    ratio = 1 / (search["folds"] - 1)
    scores = {value_: _by_fold(one) for value_, one in _of_grid(search)}
    steps = []
    for small, large in zip(sorted(scores), sorted(scores)[1:], strict=False):
        places = sorted(scores[small].keys() & scores[large].keys())
        one = Contrast(f"{large} against {small}", len(places), "folds", "better")
        if len(places) > 1:
            differences = [scores[large][p] - scores[small][p] for p in places]
            one.test = corrected_resampled_t(differences, ratio)
        steps.append(one)
    return steps


def _of_grid(search: dict[str, Any]) -> list[tuple[float, dict[str, Any]]]:
    """(value of the one setting, candidate) of a search."""
    pairs = []
    for candidate in search["candidates"]:
        settings = [v for k, v in candidate.items() if k.startswith("setting.")]
        if len(settings) == 1 and isinstance(settings[0], int | float):
            pairs.append((settings[0], candidate))
    return pairs


def _by_fold(candidate: dict[str, Any]) -> dict[tuple[int, int], float]:
    return {(s["repeat"], s["fold"]): sum(s["values"]) / len(s["values"])
            for s in candidate["scores"]}  # fmt: skip


# -- in words ------------------------------------------------------------------------------------


def _short(name: str) -> str:
    return name.partition("/")[2]


def _head(answer: Answer) -> str:
    """The answer in a few words."""
    question = answer.question
    if question.dead:
        return ""
    lacking = [c for c in answer.contrasts if c.test is None]
    if lacking or not answer.contrasts:
        least = min((c.seeds for c in lacking), default=0)
        if question.grid and not answer.contrasts:
            return "Not answered yet: the search has not been run."
        return f"Not answered yet: {least} of {SEEDS} seeds."
    as_said = [c.word == c.said for c in answer.contrasts]
    if all(as_said):
        return f"Yes{_of_that_size(answer)}."
    opposed = [c.word not in (c.said, "not shown") for c in answer.contrasts]
    if not any(as_said):
        return "No." if any(opposed) else "Not shown."
    if as_said == [c.alive for c in answer.contrasts]:
        return "Only of networks that learn."
    return f"Of {sum(as_said)} of {len(as_said)} comparisons."


def _of_that_size(answer: Answer) -> str:
    """Whether the difference is as large as the document claims."""
    size, test = answer.question.size, answer.contrasts[0].test
    if size is None or test is None or test.interval is None:
        return ""
    low, high = sorted(abs(end) for end in test.interval)
    return ", but less" if high < abs(size) else ", and more" if low > abs(size) else ""


def _body(figures: Figures, answer: Answer) -> list[str]:
    question = answer.question
    parts = []
    if question.ranked:
        parts.append(_ranking(figures, question.ranked))
    if question.grid and answer.contrasts:
        parts.append(_grid_text(figures, question.grid))
    if question.ranked:
        parts += _grouped(answer.contrasts)
    elif any(c.test for c in answer.contrasts):
        parts.append("; ".join(c.text for c in answer.contrasts) + ".")
    first = answer.contrasts[0].test if answer.contrasts else None
    if question.size is not None and first is not None and first.interval:
        low, high = first.interval
        inside = low <= question.size <= high
        parts.append(f"A difference of {question.size:+.4f} is {'in' if inside else 'out'}side "
                     "that interval.")  # fmt: skip
    parts += [_dead(figures, name) for name in question.dead]
    return parts


def _grouped(contrasts: Sequence[Contrast]) -> list[str]:
    """One against many, by verdict."""
    groups: dict[str, list[str]] = {}
    for contrast in contrasts:
        if contrast.test is not None:
            own, _, other = contrast.name.partition(" against ")
            groups.setdefault(f"{own}, {contrast.word}", []).append(
                f"against {other} {contrast.figures}"
            )
    return [f"{key}: {'; '.join(texts)}." for key, texts in groups.items()]


def _ranking(figures: Figures, names: Sequence[str]) -> str:
    """The best three by mean over their seeds."""
    summaries = {name: figures.of(name, "honest").summary(alive=True) for name in names}
    known = sorted(
        ((n, s) for n, s in summaries.items() if s and s.n > 1), key=lambda x: -x[1].mean
    )
    if len(known) < len(names):
        return ""
    listed = ", ".join(f"{_short(n)} {s.mean:.4f} (n = {s.n})" for n, s in known[:3])
    return f"Highest means over seeds: {listed}."


def _grid_text(figures: Figures, grid: str) -> str:
    """Best value, and in what the search differs from the grid."""
    record = figures.search(grid)
    assert record is not None  # it has contrasts
    search = record.summary
    means = ", ".join(f"{v} {one['mean']:.4f}" for v, one in sorted(_of_grid(search)))
    changed = changed_settings(grid, record.plan)
    note = "".join(f" It was searched with {k}={json.dumps(new)} instead of {json.dumps(old)}."
                   for k, (old, new) in changed.items())  # fmt: skip
    return f"Accuracy over {search['folds']} folds: {means}; {search['winner']} won.{note}"


def _dead(figures: Figures, name: str) -> str:
    """Share of networks born dead, with Wilson's interval (1927)."""
    measured = figures.of(name, "honest")
    n = len(measured.rows)
    if not n:
        return f"{_short(name)}: not answered yet, no seed has been trained."
    dead = n - len(measured.living)
    share, (low, high) = dead / n, binomial_floor(dead / n, n).interval
    return f"{_short(name)}: {dead} of {n} are dead, {share:.2f} [{low:.2f}, {high:.2f}]."
