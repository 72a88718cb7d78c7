"""What makes the runs of a section hard to compare, told before any of their numbers."""

import math
from collections.abc import Collection, Iterator

from varshare_jax.report.sections import MARKED_FROM, Section

# Budgets are rounded up to whole updates, which alone makes some percent.
_BUDGETS_ALIKE = 1.1
# Seeds of one run differ by a factor of 1.04 to 1.3 on `cartpole_conflict` (of PaCo by 1.8).
_STEPS_ALIKE = 1.5


def caveats(section: Section) -> tuple[str, ...]:
    """Sentences, none where the scored runs have like budgets and steps and enough seeds."""
    return (*_seeds(section), *_budgets(section), *_steps(section))


def _seeds(section: Section) -> Iterator[str]:
    few = [f"{entry.label} ({entry.run.num_seeds})" for entry in section.scored
           if entry.run.num_seeds < MARKED_FROM]
    if few:
        yield (f"Fewer than {MARKED_FROM} seeds: {', '.join(few)}. Intervals are too narrow, and "
               f"no run is marked as the best.")


def _budgets(section: Section) -> Iterator[str]:
    budgets = {entry.label: entry.run.final.env_steps for entry in section.scored
               if entry.run.final}
    if _apart(budgets.values(), _BUDGETS_ALIKE):
        low, high = min(budgets, key=budgets.__getitem__), max(budgets, key=budgets.__getitem__)
        yield (f"Budgets differ by more than {_BUDGETS_ALIKE - 1:.0%}: final scores are those "
               f"after {budgets[low]:,} env steps of {low} and {budgets[high]:,} of {high}. "
               f"Compare the learning curves at equal steps.")


def _steps(section: Section) -> Iterator[str]:
    known = ((entry.label, entry.run.effective_step) for entry in section.scored)
    steps = {label: step for label, step in known if step and math.isfinite(step)}
    if _apart(steps.values(), _STEPS_ALIKE):
        low, high = min(steps, key=steps.__getitem__), max(steps, key=steps.__getitem__)
        yield (f"Effective steps differ by more than a factor of {_STEPS_ALIKE:g}: from "
               f"{steps[low]:.2%} of {low} to {steps[high]:.2%} of {high} per update. Differences "
               f"may be those of the step size rather than of the method.")


def _apart(values: Collection[float], ratio: float) -> bool:
    return len(values) > 1 and max(values) > ratio * min(values)
