"""How figures look: their width, the size of text, and colours, markers and line styles.

The colours are Okabe and Ito's, which colour-blind readers tell apart; their yellow, pale on white,
is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle

WIDTH = 800 / 96  # inches: a README is 800 px wide, at 96 px per inch

# For matplotlib's rc_context. Text of 10 pt in a figure of WIDTH is 10 pt in a README.
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "figure.titlesize": 11,
    "figure.labelsize": 10,
    "figure.constrained_layout.h_pad": 0.06,
    "legend.frameon": False,
    "lines.markersize": 7,
    "savefig.dpi": 144,  # 1200 px, for screens with more than one pixel per px
}

BLUE, SKY, GREEN = "#0072B2", "#56B4E9", "#009E73"
ORANGE, VERMILLION, PURPLE = "#E69F00", "#D55E00", "#CC79A7"
GRAY = "dimgray"

# Marker, colour and line style.
Look = tuple[str, str, str]

BASELINE: Look = ("*", "black", "-")
# Of lines that are told apart by their names alone.
LINES: tuple[Look, ...] = (
    ("o", BLUE, "-"),
    ("s", ORANGE, "--"),
    ("^", GREEN, "-."),
    ("D", PURPLE, ":"),
    ("v", VERMILLION, "-"),
)

# Of kinds of heads. A colour is used twice only where two kinds are not drawn in one panel, or are
# much the same.
KINDS: dict[str, Look] = {
    "TRL": ("o", BLUE, "-"),
    "TRL, tensor dropout": ("v", SKY, "--"),
    "TRL, fitted": ("s", GREEN, "--"),
    "TRL, CP": ("D", PURPLE, "-."),
    "TRL, tensor train": ("s", GREEN, ":"),
    "TCL": ("^", ORANGE, "-"),
    "TCL, not normalised": (">", VERMILLION, "--"),
    "TCL for a dense layer": ("<", SKY, "-."),
    "TCL for a dense layer, not normalised": ("d", SKY, ":"),
    "pooling, dense": ("P", GRAY, "-"),
    "flattened, dense": ("X", GRAY, "--"),
    "dense": ("*", GRAY, ":"),
}

# For kinds of other heads, in turn. Four and five have no common factor: 20 looks.
_MORE_MARKERS = ("h", "p", "8", "H")
_MORE_COLORS = (GREEN, VERMILLION, PURPLE, BLUE, ORANGE)
_MORE_LINES = ("-", "--", "-.", ":")


def looks_of(kinds: Iterable[str]) -> dict[str, Look]:
    """The look of every kind, each its own; kinds that have none get one as they come."""
    more = zip(cycle(_MORE_MARKERS), cycle(_MORE_COLORS), cycle(_MORE_LINES))
    unlisted = dict.fromkeys(kind for kind in kinds if kind not in KINDS)
    return {**KINDS, **dict(zip(unlisted, more))}
