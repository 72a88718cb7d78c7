"""Choosing among the configurations of each method's sweep by one stated rule."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from varshare_jax.experiments.plan import Plan, PlannedRun
from varshare_jax.report.runs import Run, load_run
from varshare_jax.report.statistics import interquartile_mean
from varshare_jax.runs.files import write_text
from varshare_jax.settings import get

RULE = ("Chosen is the configuration with the highest interquartile mean of the final "
        "evaluation's returns over seeds and tasks; on a tie (to 0.1 % of the best) the one with "
        "the highest mean return over all evaluations of training. A configuration with a "
        "diverged seed is never chosen.")


@dataclasses.dataclass(frozen=True)
class Trial:
    """One configuration: what it varied, and its scores (-inf where a seed diverged)."""

    values: Mapping[str, float]
    iqm: float
    area: float


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The files that tuning wrote: the table in Markdown, the chosen settings in TOML."""

    table: Path
    settings: Path


def write(plan: Plan) -> Tuned:
    """Writes `tuning.md` and `tuned.toml` into the plan's folder, of all finished runs."""
    trials = {run.name: _trials(run) for run in plan.runs if run.finished}
    written = Tuned(plan.out / "tuning.md", plan.out / "tuned.toml")
    write_text(written.table, _table(plan, trials))
    write_text(written.settings, _settings(plan, trials))
    return written


def choose(trials: list[Trial]) -> Trial | None:
    """The best by `RULE`; of equals the first. None where every configuration diverged."""
    best = max(trial.iqm for trial in trials)
    if not math.isfinite(best):
        return None
    ties = [trial for trial in trials if trial.iqm >= best - 1e-3 * abs(best)]
    return max(ties, key=lambda trial: trial.area)


def _trials(run: PlannedRun) -> list[Trial]:
    varied = [part.partition("=")[0] for part in run.config.sweep.split(";")]
    return [_trial({name: get(part, name) for name in varied}, load_run(Path(part.run_dir)))
            for part in run.config.configurations()]


def _trial(values: Mapping[str, float], run: Run) -> Trial:
    returns = [run.final.returns, *(evaluation.returns for evaluation in run.evaluations)]
    if not all(np.isfinite(scores).all() for scores in returns):
        return Trial(values, -math.inf, -math.inf)
    return Trial(values, float(interquartile_mean(run.final.returns)), float(np.mean(returns)))


def _table(plan: Plan, trials: Mapping[str, list[Trial]]) -> str:
    config = plan.runs[0].config
    lines = [f"{plan.title}. {len(config.configurations())} configurations of each, "
             f"{config.num_seeds} seeds from {config.seed}, {config.total_steps:,} steps. {RULE}",
             "", "| run | configuration | final IQM | mean over training | chosen |",
             "|---|---|---|---|---|"]
    for name, found in trials.items():
        best = choose(found)
        for trial in found:
            values = ", ".join(f"{key} = {value:g}" for key, value in trial.values.items())
            scores = (f"{trial.iqm:.1f} | {trial.area:.1f}" if math.isfinite(trial.iqm)
                      else "diverged | –")
            lines.append(f"| {name} | {values} | {scores} | {'yes' if trial is best else ''} |")
    return "\n".join(lines) + "\n"


def _settings(plan: Plan, trials: Mapping[str, list[Trial]]) -> str:
    config = plan.runs[0].config
    lines = [f"# Chosen by {plan.name}: seeds {config.seed} to "
             f"{config.seed + config.num_seeds - 1}, {config.total_steps:,} steps."]
    for name, found in trials.items():
        best = choose(found)
        lines += ["", f"[{name}]" if best else f"# {name}: every configuration diverged"]
        lines += [f"{key} = {value}" for key, value in (best.values if best else {}).items()]
    return "\n".join(lines) + "\n"
