"""What the report shows, in which order, and how to read it."""

from collections.abc import Iterator, Sequence

from varshare_jax.report import (
    caveats,
    comparison_figures,
    comparison_tables,
    figures,
    series,
    specialization,
    tables,
    transfer,
)
from varshare_jax.report.drawing import to_svg
from varshare_jax.report.estimates import comparisons, oracle_scale, scale_of
from varshare_jax.report.markup import (
    Heading,
    about,
    banner,
    image,
    legend,
    page,
    side_by_side,
    table,
)
from varshare_jax.report.sections import MARKED_FROM, Section

_COSTS = ("Parameters that one task's forward pass reads (active), in training and when each "
          "task's weights have been merged into one network, and that are stored for all tasks. "
          "Effective step: how far an update moves a task's weights, median |ΔW| over median |W|, "
          "mean over training; methods whose steps differ are not compared at equal pace. "
          "Env steps are per seed, summed over tasks; steps per second count all seeds. Seconds "
          "are of training, evaluation and checkpoints, after compiling.")


def render(sections: Sequence[Section]) -> str:
    """The page of all sections."""
    runs = sum(len(section.entries) for section in sections)
    subtitle = (f"{runs} {'run' if runs == 1 else 'runs'} on "
                f"{', '.join(section.suite for section in sections)}")
    content = [part for section in sections for part in _section(section)]
    content += series.content(sections)
    if known := tables.environment(sections):
        content += [Heading(2, "Versions and devices"), table(known, "text")]
    return page("Multi-task training report", subtitle, content)


def _section(section: Section) -> Iterator[str | Heading]:
    yield Heading(2, section.suite)
    yield banner(caveats.caveats(section))
    yield from _results(section)
    yield from _learning_curves(section)
    yield from transfer.content(section)
    yield from _comparisons(section)
    yield from _profiles(section)
    yield from _tasks(section)
    yield from _retention(section)
    yield from _task_curves(section)
    yield from specialization.content(section)
    if len(section.entries) > 1:
        differences = tables.config_differences(section)
        yield Heading(3, "Differences between the configurations")
        yield table(differences, "text") if differences else "<p>None but the method.</p>"


def _best(section: Section) -> str:
    return ("The best is bold." if section.marks_best else
            f"No best is bold with fewer than {MARKED_FROM} seeds.")


def _results(section: Section) -> Iterator[str | Heading]:
    scale = scale_of(section)
    gap = (f" Optimality gap: mean shortfall from 1 of the normalised scores ({scale.meaning}); "
           f"lower is better." if scale else "")
    yield Heading(3, "Results")
    yield about(f"{section.measure.capitalize()} of the final evaluation over all seeds × tasks. "
                f"IQM: mean of the middle half. Median: over tasks, of the means over seeds.{gap} "
                f"In brackets: 95 % stratified bootstrap intervals (Agarwal et al. 2021). "
                f"{_best(section)}")
    yield table(tables.aggregates(section))
    if others := tables.other_evaluations(section):
        yield Heading(3, "Other evaluations")
        yield about("Means over seeds × tasks of further evaluations of the same policies, such as "
                    "with drawn weights or in another implementation of the suite; 95 % intervals.")
        yield table(others)
    yield Heading(3, "Parameters and cost")
    yield about(_COSTS)
    yield table(tables.costs(section))


def _learning_curves(section: Section) -> Iterator[str | Heading]:
    yield Heading(3, "Learning curves")
    if not any(len(entry.steps) for entry in section.scored):
        yield "<p>No evaluation during training has been logged.</p>"
        return
    yield about(f"IQM of the {section.measure} over tasks and seeds; bands are 95 % stratified "
                f"bootstrap intervals. Seconds compare only runs on equal devices: see the "
                f"versions below.")
    yield side_by_side((
        image(to_svg(figures.learning_curves([section], against)),
              f"Learning curves on {section.suite} against {against}")
        for against in (figures.STEPS, figures.SECONDS)), "figures")


def _comparisons(section: Section) -> Iterator[str | Heading]:
    compared = comparisons(section)
    if not compared:
        return
    bold = "Bold: the interval excludes equality. " if section.marks_best else ""
    yield Heading(3, f"{section.focus} against each other method", "comparisons")
    yield about(f"P: probability that a run of {section.focus} scores higher than one of the "
                f"other on the same task, ties counted half, mean over tasks (Mann–Whitney). "
                f"Paired difference: mean over tasks of {section.focus} minus the other, seed by "
                f"seed; the interval resamples whole seeds, the same for both. Intervals hold "
                f"for all {len(compared)} comparisons together with 95 % (Bonferroni). {bold}"
                f"Few seeds make intervals too narrow.")
    yield table(comparison_tables.against_each(section, compared))
    drawn = [image(to_svg(comparison_figures.probability_of_improvement(section, compared)),
                   f"Probability of improvement on {section.suite}")]
    if any(comparison.difference is not None for comparison in compared):
        drawn.append(image(to_svg(comparison_figures.paired_differences(section, compared)),
                           f"Paired differences on {section.suite}"))
    yield side_by_side(drawn, "figures")


def _profiles(section: Section) -> Iterator[str | Heading]:
    if not section.scored:
        return
    scale = scale_of(section)
    meaning = f", normalised: {scale.meaning}" if scale else ""
    yield Heading(3, "Performance profiles")
    yield about(f"Fraction of seeds × tasks whose final {section.measure} exceeds τ{meaning}. "
                f"Higher is better; curves that cross mean that neither is better throughout. "
                f"Bands are pointwise 95 % stratified bootstrap intervals.")
    yield image(to_svg(comparison_figures.performance_profiles(section)),
                f"Performance profiles on {section.suite}", "wide")


def _tasks(section: Section) -> Iterator[str | Heading]:
    if not section.scored:
        return
    yield Heading(3, f"Final {section.measure} of each task", "tasks")
    yield about(f"Mean over seeds ± standard deviation. {_best(section)}")
    yield table(tables.per_task(section))
    if len(section.task_names) > 1:
        yield Heading(3, "Worst tasks")
        yield about("Mean over the tasks of the lowest means over seeds. Each resample of the "
                    "intervals finds its worst tasks anew, so they reach lower than higher.")
        yield table(comparison_tables.worst_tasks(section))


def _retention(section: Section) -> Iterator[str | Heading]:
    if not section.oracle or len(section.scored) < 2:
        return
    yield Heading(3, "Retention of the single-task oracle")
    if not (retained := comparison_tables.retention(section)):
        yield ("<p>Returns are not all positive and the suite does not say what random actions "
               "score, so a share of the oracle's return would mean nothing.</p>")
        return
    scale = oracle_scale(section)
    assert scale  # or nothing would have been retained
    yield about(f"What each method keeps of {section.oracle.label}, mean over seeds "
                f"({scale.meaning}). The interval is that of the method's seeds; "
                f"the oracle's mean counts as given.")
    yield table(retained, "heat")


def _task_curves(section: Section) -> Iterator[str | Heading]:
    drawn = [entry for entry in section.scored if len(entry.steps)]
    if len(section.task_names) < 2 or not drawn:
        return
    spread = " ± standard deviation" if figures.has_bands(section) else ""
    yield Heading(3, "Learning curves of each task")
    yield about(f"Mean {section.measure} over seeds{spread} against environment steps.")
    yield legend((to_svg(figures.key(entry)), entry.label) for entry in drawn)
    yield side_by_side((image(to_svg(figures.task_curve(section, task)),
                              f"Learning curves on task {name}")
                        for task, name in enumerate(section.task_names)), "panels")
