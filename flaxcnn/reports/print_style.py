"""Pictures for paper: black ink on white, sizes of print, fonts that stay text in a PDF."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from flaxcnn.records.files import check_suffix, write_atomic

SUFFIXES = (".pdf", ".svg", ".png")
DPI = 300  # of png
INK, GREY = "#000000", "#6e6e6e"
# Okabe and Ito's, darkest first: apart for the colour-blind, and in shades of grey
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8c8c8c")
MARKERS = "osD^vP*X"
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)))
FONTS = {
    "serif": ["STIX Two Text", "Times New Roman", "Nimbus Roman", "STIXGeneral", "DejaVu Serif"],
    "sans": ["Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
}
# Points: as large as the captions of most journals and conferences
STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.titleweight": "bold",
    "mathtext.fontset": "stix", "text.parse_math": False, "pdf.fonttype": 42, "ps.fonttype": 42,
    "svg.fonttype": "none", "svg.hashsalt": "flaxcnn", "figure.facecolor": "white",
    "axes.linewidth": 0.6, "grid.linewidth": 0.4, "grid.color": "#d0d0d0", "axes.grid": True,
    "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "xtick.minor.width": 0.4, "xtick.minor.size": 1.5,
    "lines.linewidth": 1.1, "lines.markersize": 3, "legend.frameon": False,
    "legend.handlelength": 2.2, "axes.formatter.useoffset": False,
}  # fmt: skip


def printed(font: str = "sans") -> Any:
    """The style of print, as a context or a decorator, in a "serif" or "sans" font."""
    family = "serif" if font == "serif" else "sans-serif"
    style: dict[Any, Any] = {**STYLE, "font.family": family, f"font.{family}": FONTS[font]}
    return matplotlib.rc_context(style)


def write_picture(path: Path, figure: Figure, font: str = "sans") -> None:
    """Write a picture in the format of its name; equal for equal data.

    Raises:
        ConfigError: another kind of file.
        WriteError: it cannot be written.
    """
    check_suffix("a picture", path, *SUFFIXES)
    kind, file = path.suffix.lower()[1:], io.BytesIO()
    no_date = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}[kind]
    with printed(font):
        figure.savefig(file, format=kind, dpi=DPI, metadata=no_date)
    write_atomic(path, file.getvalue())
