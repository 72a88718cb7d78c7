"""The report's sections on what tasks own: how much, in which layers, and how alike they are."""

from collections.abc import Iterator

import numpy as np

from varshare_jax.report import comparison_figures, figures, specialization_figures, tables
from varshare_jax.report.drawing import to_svg
from varshare_jax.report.markup import (
    Heading,
    about,
    folded,
    image,
    legend,
    side_by_side,
    subheading,
    table,
)
from varshare_jax.report.sections import Entry, Section

_LAST = "mean over seeds at the last logged update"
_MEASURES = {
    "shift": ("nats that each task pays for its shift",
              f"The part of the KL divergence that comes from the posterior means, Σ μ² / "
              f"(2 σ_prior²): what each task departs from the shared weights, layer by layer; "
              f"{_LAST}."),
    "kl": ("KL divergence from the prior, in nats",
           f"The whole divergence of each task's posterior, its spread included, layer by layer; "
           f"{_LAST}."),
    "l2": ("squared norm of the residuals",
           f"How far each task's weights lie from the shared ones, layer by layer; {_LAST}."),
}
_SCALES = {
    "relative_mu": ("size of the residuals relative to the shared weights",
                    "Σ|μ| / Σ|θ| of each task and layer, mean over seeds, in the course of "
                    "training. 1: the residuals are as large as the weights that they are added "
                    "to."),
    "sigma_prior": ("how wide each prior has become",
                    "σ_prior of each task and layer, where a controller sets it layer by layer, "
                    "mean over seeds, in the course of training."),
}


def content(section: Section) -> Iterator[str | Heading]:
    """All of them, those that no run of the section has left out."""
    yield from _tables(section)
    yield from _scales(section)
    yield from _similarity(section)
    yield from _embedding(section)
    yield from _sigma(section)


def _tables(section: Section) -> Iterator[str | Heading]:
    for prefix, (title, text) in _MEASURES.items():
        tried = ((entry, tables.specialization(entry.run, prefix, section.task_names))
                 for entry in section.entries)
        found = [(entry, cells) for entry, cells in tried if cells]
        if found:
            yield Heading(3, f"Specialization: {title}", f"specialization-{prefix}")
            yield about(text)
        for entry, cells in found:
            yield subheading(entry.label) + _series(section, entry, prefix)
            yield folded("Tasks × layers in numbers", table(cells, "heat"))


def _scales(section: Section) -> Iterator[str | Heading]:
    for prefix, (title, text) in _SCALES.items():
        drawn = [(entry, _series(section, entry, prefix)) for entry in section.entries]
        drawn = [(entry, maps) for entry, maps in drawn if maps]
        if drawn:
            yield Heading(3, f"Specialization: {title}",
                          f"specialization-{prefix.split('_')[0]}")
            yield about(text)
        for entry, maps in drawn:
            yield subheading(entry.label) + maps


def _series(section: Section, entry: Entry, prefix: str) -> str:
    """A map at each of the run's moments on one scale; empty where there is nothing to draw."""
    if len(section.task_names) != entry.run.num_tasks:
        return ""
    moments = [(moment.env_steps, *tables.by_layer(moment.metrics, prefix))
               for moment in entry.run.moments]
    moments = [(steps, layers, values) for steps, layers, values in moments if layers]
    top = max((np.nanmax(values, initial=0.0) for *_, values in moments), default=0.0)
    if not top > 0:
        return ""
    return side_by_side((image(
        to_svg(specialization_figures.layer_map(
            f"after {steps:,} steps", values, section.task_names, layers, top)),
        f"{prefix} of {entry.label} after {steps:,} steps")
        for steps, layers, values in moments), "series")


def _similarity(section: Section) -> Iterator[str | Heading]:
    tasks = len(section.task_names)
    finished = [entry for entry in section.entries if entry.run.finished]
    if tasks < 2 or not finished:
        return
    means = {entry.label: tables.mean_over_seeds(entry.run.similarity) for entry in finished
             if entry.run.similarity is not None and entry.run.similarity.shape[1] == tasks}
    without = [entry.label for entry in finished if entry.label not in means]
    none = (f" {', '.join(without)}: no parameters of the tasks' own beside shared ones, or not "
            f"stored." if without else "")
    yield Heading(3, "Similarity of tasks")
    yield about(f"Cosine between the tasks' own parameters (residuals, embeddings, coefficients; "
                f"output layers where there are no others) at the end of training, mean over "
                f"seeds. 1: two tasks pull the shared weights the same way; 0: unrelated ways; "
                f"below: opposite ways.{none}")
    between = [cosines[~np.eye(tasks, dtype=bool)] for cosines in means.values()]
    known = [cosine for cosine in np.concatenate([[], *between]) if np.isfinite(cosine)]
    limits = (min(0.0, *known), max(0.1, *known)) if known else (0.0, 1.0)
    yield side_by_side((
        image(to_svg(comparison_figures.task_similarity(label, cosines, section.task_names,
                                                        limits)),
              f"Similarity of tasks under {label}") for label, cosines in means.items()),
        "maps")


def _embedding(section: Section) -> Iterator[str | Heading]:
    tasks = len(section.task_names)
    found = [(entry, entry.run.posterior) for entry in section.entries if entry.run.posterior]
    found = [(entry, known) for entry, known in found
             if known.gram is not None and known.gram.shape[1:] == (tasks, tasks)
             and np.isfinite(known.gram).all(axis=(1, 2)).any()]
    if tasks < 3 or not found:
        return
    yield Heading(3, "Map of tasks")
    yield about("The tasks' own parameters in two dimensions: principal coordinates, in which "
                "distances are as true as two axes allow, those of all seeds taken together. "
                "The cross is the shared network, a residual of zero. The same map is repeated "
                "with what the tasks differ in: tasks that are alike should lie together.")
    for entry, known in found:
        drawn = specialization_figures.task_maps(known, section.task_names,
                                                 entry.run.task_parameters)
        yield subheading(entry.label) + side_by_side(
            (image(to_svg(figure), f"Map of tasks under {entry.label}: {name}")
             for name, figure in drawn), "maps")


def _sigma(section: Section) -> Iterator[str | Heading]:
    found = [entry for entry in section.entries
             if entry.run.posterior and entry.run.posterior.sigma]
    if not found:
        return
    layers = list(dict.fromkeys(
        layer for entry in found if entry.run.posterior for layer in entry.run.posterior.sigma))
    yield Heading(3, "Standard deviations of the posteriors")
    yield about("σ of every random parameter at the end of training, layer by layer, all tasks "
                "and seeds together: density over log σ. Dotted: where σ started. Triangles: "
                "σ_prior, to which σ drifts where the reward does not hold it.")
    yield legend((to_svg(figures.key(entry)), entry.label) for entry in found)
    yield side_by_side((image(to_svg(specialization_figures.sigma_histogram(layer, found)),
                              f"Standard deviations of layer {layer}") for layer in layers),
                       "panels")
