"""What all figures of the report share: line styles, fonts, files. No pyplot, no global state."""

import contextlib
import io
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from varshare_jax.report.sections import Entry


class Style(NamedTuple):
    """A line: its colour, dashes (on, off, ... in units of its width) and marker."""

    color: str
    dashes: tuple[float, ...]
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """As matplotlib's keyword arguments."""
        return {"color": self.color, "marker": self.marker,
                "linestyle": (0, self.dashes) if self.dashes else "-"}


# Colours of Okabe & Ito, apart for every common colour blindness; the dashes and markers tell
# the lines apart where there is no colour at all.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
_DASHES = ((), (5, 1.5), (5, 1.5, 1, 1.5), (1.2, 1.2), (8, 2), (8, 1.5, 1, 1.5, 1, 1.5), (3, 1))
_MARKERS = "os^DvPX"
_ELSEWHERE = "Verdana, sans-serif"  # as wide as the font that figures are laid out with


def style_of(entry: Entry) -> Style:
    """The line style of a run, the same throughout a report."""
    return style(entry.style)


def style(number: int) -> Style:
    """Up to 49 numbers differ in dashes or marker, colours aside: they go round at other speeds."""
    lap, color = divmod(number, len(_COLORS))
    return Style(_COLORS[color], _DASHES[(color + lap) % len(_DASHES)],
                 _MARKERS[(color + 2 * lap) % len(_MARKERS)])


def to_svg(figure: Figure) -> bytes:
    """The figure as SVG, lean as many go into a page; equal figures give equal bytes.

    Its letters are text, not outlines: those made up half of a page.
    """
    buffer = io.StringIO()
    with look():
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(
            ("Creator", "Date", "Format", "Type")))
    return _lean(buffer.getvalue()).encode()


def to_png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    with look():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def _lean(svg: str) -> str:
    """The same picture without the ids that nothing refers to and digits that nobody sees."""
    svg = svg[svg.index("<svg"):]  # as an image it needs no declaration
    referred = set(re.findall(r"#([\w.-]+)", svg))

    def lean(tag: re.Match[str]) -> str:
        text = re.sub(r' id="([^"]*)"', lambda found: found[0] * (found[1] in referred), tag[0])
        text = re.sub(r"\d+\.\d{4,}", lambda number: f"{float(number[0]):.1f}", text)
        return re.sub(r"\s+", " ", text).replace("'DejaVu Sans'", f"'DejaVu Sans', {_ELSEWHERE}")

    return re.sub(r">\s+<", "><", re.sub(r"<[^>]*>", lean, svg))


@contextlib.contextmanager
def look() -> Iterator[None]:
    """The look of every figure, for as long as it is being made or written."""
    with matplotlib.rc_context({
        "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 10.5,
        "axes.titleweight": "bold", "axes.labelsize": 10, "xtick.labelsize": 9,
        "ytick.labelsize": 9, "legend.fontsize": 9.5, "legend.frameon": False,
        "legend.handlelength": 3.4, "axes.spines.top": False, "axes.spines.right": False,
        "axes.edgecolor": "#6b7280", "xtick.color": "#374151", "ytick.color": "#374151",
        "axes.grid": True, "grid.color": "#e5e7eb", "grid.linewidth": 0.8,
        "axes.axisbelow": True, "lines.linewidth": 1.8, "lines.markersize": 4,
        "text.parse_math": False,  # a task may be called anything, "$" included
        "svg.fonttype": "none",
        "svg.hashsalt": "varshare",  # random ids would make every report differ
    }):
        yield
