"""Tables as LaTeX with booktabs, as a paper includes them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flaxcnn.records.tables import Table

ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "<": "$<$", ">": "$>$", "–": "--", "×": r"$\times$",
}  # fmt: skip


def escaped(text: str) -> str:
    r"""Text in which nothing is a command.

    >>> escaped("learning_rate=0.1 & 5 %"), escaped("-0.0031 ± 0.001")
    ('learning\\_rate=0.1 \\& 5 \\%', '$-$0.0031 $\\pm$ 0.001')
    """
    text = "".join(ESCAPES.get(letter, letter) for letter in text)
    return re.sub(r"(?<![\w-])-(?=[\d.])", "$-$", text)


def tabular(table: Table) -> str:
    """One `tabular` with a heading, numbers on the right."""
    header, *rows = table.lines()
    sides = "".join("r" if table.numeric(i) else "l" for i in range(len(header)))
    line = lambda cells: " & ".join(map(escaped, cells)) + r" \\"  # noqa: E731
    return "\n".join([
        rf"\begin{{tabular}}{{@{{}}{sides}@{{}}}}", r"\toprule", line(header), r"\midrule",
        *map(line, rows), r"\bottomrule", r"\end{tabular}",
    ])  # fmt: skip


def latex(table: Table, settings: Table | None, sentences: Sequence[str]) -> str:
    """A floating table, what differs in a second one, and the sentences as comments."""
    parts = ["% needs \\usepackage{booktabs}", *(f"% {text}" for text in sentences),
             _floating(table, "comparison")]  # fmt: skip
    if settings:
        parts += ["", _floating(settings, "settings")]
    return "\n".join(parts) + "\n"


def _floating(table: Table, name: str) -> str:
    return "\n".join([
        r"\begin{table}[t]", r"\centering", rf"\caption{{{escaped(table.caption)}.}}",
        rf"\label{{tab:{name}}}", tabular(table), r"\end{table}",
    ])  # fmt: skip
