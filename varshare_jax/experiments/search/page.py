"""A search as a page: how each run's trials went, and where in its space the chosen one lies."""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from varshare_jax.experiments.choice import edges, rule, shown
from varshare_jax.experiments.plan import Plan
from varshare_jax.experiments.search.study import Finished, Study
from varshare_jax.experiments.space import Dimension
from varshare_jax.report import markup
from varshare_jax.report.drawing import to_svg
from varshare_jax.report.search_figures import Axis, Tried, history, parallel, slice_of
from varshare_jax.report.table import ABSENT, Cell, Table, percent

_MEASURES = {"final": "final IQM", "area": "mean over training"}


def render(plan: Plan, studies: Sequence[Study], told: Mapping[str, Sequence[Finished]],
           chosen: Mapping[str, Finished]) -> str:
    """The page of all runs; `told` and `chosen` by the name of the run."""
    search, config = plan.searched, plan.runs[0].config
    content: list[str | markup.Heading] = [markup.about(
        f"{search.trials} trials of each run, {config.num_seeds} seeds from {config.seed}, "
        f"{config.total_steps:,} steps ({search.sampler}, pruner {search.pruner}). "
        f"{rule(search.objective)} Importance is PED-ANOVA's (Watanabe et al. 2023) for the best "
        "trials; few trials say little.")]
    for study in studies:
        name = study.run.name
        content += _run(study, told[name], chosen.get(name))
    return markup.page(f"Search: {plan.name}", plan.title, content)


def _run(study: Study, told: Sequence[Finished],
         chosen: Finished | None) -> Iterator[str | markup.Heading]:
    name, measure = study.run.name, _MEASURES[study.search.objective]
    yield markup.Heading(2, name)
    if not chosen:
        yield "<p>No trial was trained to its end.</p>"
        return
    yield markup.about(f"Chosen: trial {chosen.number}, {shown(chosen.values)}; final IQM "
                       f"{chosen.iqm:.4g}, mean over training {chosen.area:.4g}.")
    for line in edges({name: study.run.space}, {name: chosen.values}):
        yield f"<p><strong>{html.escape(line)}</strong></p>"
    tried = Tried(np.array([trial.value(study.search.objective) for trial in told]),
                  np.array([trial.end == "complete" for trial in told]), told.index(chosen))
    axes = [_axis(field, dimension, told) for field, dimension in study.run.space.items()]
    yield markup.side_by_side([
        markup.image(to_svg(history(tried, measure)), f"Scores of the trials of {name}"),
        markup.image(to_svg(parallel(tried, axes, measure)), f"Complete trials of {name}")],
        "figures")
    yield markup.side_by_side((markup.image(to_svg(slice_of(tried, axis, measure)),
                                            f"{name}: scores against {axis.name}")
                               for axis in axes), "maps")
    yield markup.table(_dimensions(study, chosen))


def _axis(field: str, dimension: Dimension, told: Sequence[Finished]) -> Axis:
    """A range as it is; choices by their number."""
    values = [trial.values[field] for trial in told]
    if dimension.choices:
        return Axis(field, np.array([dimension.choices.index(value) for value in values], float),
                    None, False, tuple(map(str, dimension.choices)))
    return Axis(field, np.array(values, float), (dimension.low, dimension.high), dimension.log)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _dimensions(study: Study, chosen: Finished) -> Table:
    importance = study.importance()
    return Table(("field", "tried", "chosen", "at its", "importance"), tuple(
        (Cell(field), Cell(str(dimension)), Cell(_number(chosen.values[field])),
         Cell(dimension.edge(chosen.values[field]) or ABSENT),
         Cell(percent(importance[field]) if field in importance else ABSENT))
        for field, dimension in study.run.space.items()))
