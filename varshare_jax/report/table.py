"""What a table is, how numbers look in it, and its rendering as aligned text."""

import dataclasses
import math

import numpy as np

from varshare_jax.report.estimates import Estimate
from varshare_jax.report.sections import Section

ABSENT = "–"
NBSP = "\N{NO-BREAK SPACE}"


Number = float | np.floating | np.ndarray
"""One number; of NumPy's it may be an array without axes."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A table cell: `strong` marks the best of its group, `shade` in [0, 1] is for heatmaps."""

    text: str
    strong: bool = False
    shade: float | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells, the first of which names its row; `notes` are the footnotes."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def to_text(table: Table) -> str:
    """Columns aligned, names to the left and the rest to the right; footnotes below."""
    lines = [table.columns, *(tuple(cell.text for cell in row) for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("─" * width for width in widths))
    text = ["  ".join([line[0].ljust(widths[0]),
                       *(cell.rjust(width)
                         for cell, width in zip(line[1:], widths[1:], strict=True))]).rstrip()
            for line in lines]
    return "\n".join([*text, *table.notes]).replace(NBSP, " ")


def decimals(section: Section) -> int:
    """Decimals for the scores of a section, the same in all of its tables."""
    return digits_of(max((float(np.max(np.abs(entry.scores))) for entry in section.scored),
                         default=0.0))


def digits_of(largest: float) -> int:
    """Decimals that leave four significant digits to the largest number, at most three."""
    return 3 if largest < 1 else max(0, 3 - math.floor(math.log10(largest)))


def fixed(value: Number, digits: int) -> str:
    """A number with that many decimals."""
    return f"{round(float(value), digits) + 0.0:.{digits}f}"  # + 0.0 turns -0.0 into 0.0


def percent(value: Number) -> str:
    """A fraction as a percentage with one decimal."""
    return f"{value:.1%}"


def with_interval(estimate: Estimate, digits: int) -> str:
    """As in "8.00 [7.10, 9.00]"; without brackets where there is no interval."""
    text = fixed(estimate.value, digits)
    if estimate.interval is not None:
        low, high = estimate.interval
        text += f" [{fixed(low, digits)}, {fixed(high, digits)}]"
    return text
