"""Scores over suites that differ in one number, such as how far their tasks lie apart."""

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from varshare_jax.report import statistics
from varshare_jax.report.drawing import look, style_of, to_svg
from varshare_jax.report.estimates import Estimate, estimate
from varshare_jax.report.figures import legend_below
from varshare_jax.report.markup import Heading, about, image, table
from varshare_jax.report.sections import Entry, Section
from varshare_jax.report.table import ABSENT, Cell, Table, decimals, with_interval

_SETTINGS = re.compile(r"(?P<name>[^:\s]+):(?P<settings>[^=\s]+=\S+)(?P<cut>.*)")


@dataclasses.dataclass(frozen=True)
class Series:
    """Sections of one measure by the value of what alone tells their suites apart.

    `suite` is what they have in common, `setting` the name of what differs.
    """

    suite: str
    setting: str
    sections: dict[float, Section]

    @property
    def measure(self) -> str:
        """What the scores of all of them are."""
        return next(iter(self.sections.values())).measure

    @functools.cached_property
    def labels(self) -> dict[str, Entry]:
        """An entry for each run that several of the suites have, by its label."""
        found = [entry for section in self.sections.values() for entry in section.scored]
        count = [entry.label for entry in found].count
        return {entry.label: entry for entry in found if count(entry.label) > 1}

    @functools.cached_property
    def scores(self) -> dict[str, dict[float, Estimate]]:
        """IQM of the final scores and its 95 % interval, by label and value."""
        return {label: {value: estimate(statistics.interquartile_mean, entry.scores)
                        for value, section in self.sections.items()
                        for entry in section.scored if entry.label == label}
                for label in self.labels}


def content(sections: Sequence[Section]) -> Iterator[str | Heading]:
    """A table and a figure for every such series of the report."""
    for series in find(sections):
        yield Heading(2, f"{series.suite} against {series.setting}")
        yield about(f"IQM of the final {series.measure} over seeds × tasks on suites that differ "
                    f"in {series.setting} alone; in brackets and as bands 95 % stratified "
                    "bootstrap intervals. Tasks of another suite may be easier or harder for every "
                    "method: compare lines, not points of one line.")
        yield table(scores(series))
        yield image(to_svg(figure(series)), f"Final {series.measure} against {series.setting}",
                    "wide")


def find(sections: Sequence[Section]) -> list[Series]:
    """Groups of sections whose suites' settings (`name:key=value,…`) differ in one number only."""
    found: dict[tuple[str, str, str], dict[float, Section]] = {}
    for section in sections:
        if (match := _SETTINGS.fullmatch(section.suite)) and section.scored:
            settings = dict(part.partition("=")[::2] for part in match["settings"].split(","))
            for name, value in settings.items():
                others = ",".join(f"{key}={x}" for key, x in settings.items() if key != name)
                common = f"{match['name']}{':' * bool(others)}{others}{match['cut']}"
                try:
                    found.setdefault((common, name, section.measure), {})[float(value)] = section
                except ValueError:
                    continue
    series = (Series(suite, name, dict(sorted(by.items())))
              for (suite, name, _), by in found.items() if len(by) > 1)
    return [one for one in series if one.labels]


def scores(series: Series) -> Table:
    """A row for each run, a column for each value."""
    digits = max(map(decimals, series.sections.values()))
    rows = []
    for label, known in series.scores.items():
        rows.append((Cell(label), *(
            Cell(with_interval(known[value], digits) if value in known else ABSENT)
            for value in series.sections)))
    return Table(("Method", *(f"{series.setting} {value:g}" for value in series.sections)),
                 tuple(rows))


def figure(series: Series) -> Figure:
    """A line for each run, over the values."""
    with look():
        drawn = Figure(figsize=(6.6, 4.1), layout="constrained")
        axes = drawn.subplots()
        handles = {}
        for label, known in series.scores.items():
            style = style_of(series.labels[label])
            center = np.array([one.value for one in known.values()])
            handles[label], = axes.plot(list(known), center, **style.line)
            if all(one.interval for one in known.values()):
                low, high = np.array([one.interval for one in known.values()], float).T
                axes.fill_between(list(known), low, high, color=style.color, alpha=0.1, linewidth=0)
        values = np.array(list(series.sections))
        if (values > 0).all() and values[-1] >= 8 * values[0]:
            axes.set_xscale("log", base=2)
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set_xlabel(series.setting)
        axes.set_ylabel(f"IQM of the final {series.measure}")
        legend_below(drawn, handles)
        return drawn
