"""Choosing among the configurations of each run's sweep."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from varshare_jax.experiments.choice import Trial, Tuned, choose, edges, rule, shown, to_toml
from varshare_jax.experiments.plan import Plan, PlannedRun
from varshare_jax.experiments.space import Dimension
from varshare_jax.report.runs import Run, load_run
from varshare_jax.report.statistics import interquartile_mean
from varshare_jax.runs.files import write_text
from varshare_jax.settings import get


def write(plan: Plan) -> Tuned:
    """Writes `tuning.md` and `tuned.toml` into the plan's folder, of all finished runs."""
    trials = {run.name: _trials(run) for run in plan.runs if run.finished}
    chosen = {name: best for name, found in trials.items() if (best := choose(found))}
    config = plan.runs[0].config
    head = (f"Chosen by {plan.name}: seeds {config.seed} to "
            f"{config.seed + config.num_seeds - 1}, {config.total_steps:,} steps.")
    written = Tuned(plan.out / "tuning.md", plan.out / "tuned.toml")
    write_text(written.table, _table(plan, trials, chosen))
    write_text(written.settings,
               to_toml(head, {name: trial.values for name, trial in chosen.items()}))
    return written


def _trials(run: PlannedRun) -> list[Trial]:
    varied = [part.partition("=")[0] for part in run.config.sweep.split(";")]
    return [_trial({name: get(part, name) for name in varied}, load_run(Path(part.run_dir)))
            for part in run.config.configurations()]


def _trial(values: Mapping[str, float], run: Run) -> Trial:
    assert run.final  # the run is finished
    returns = [run.final.returns, *(evaluation.returns for evaluation in run.evaluations)]
    if not all(np.isfinite(scores).all() for scores in returns):
        return Trial(values, -math.inf, -math.inf)
    return Trial(values, float(interquartile_mean(run.final.returns)), float(np.mean(returns)))


def _table(plan: Plan, trials: Mapping[str, list[Trial]], chosen: Mapping[str, Trial]) -> str:
    config = plan.runs[0].config
    lines = [f"{plan.title}. {len(config.configurations())} configurations of each, "
             f"{config.num_seeds} seeds from {config.seed}, {config.total_steps:,} steps. {rule()}",
             "", "| run | configuration | final IQM | mean over training | chosen |",
             "|---|---|---|---|---|"]
    for name, found in trials.items():
        for trial in found:
            scores = (f"{trial.iqm:.1f} | {trial.area:.1f}" if math.isfinite(trial.iqm)
                      else "diverged | –")
            lines.append(f"| {name} | {shown(trial.values)} | {scores} | "
                         f"{'yes' if trial is chosen.get(name) else ''} |")
    spaces = {name: {field: Dimension(choices=tuple(sorted({t.values[field] for t in found})))
                     for field in found[0].values} for name, found in trials.items()}
    warnings = [*edges(spaces, {name: trial.values for name, trial in chosen.items()}),
                *(f"{name}: every configuration diverged" for name in trials.keys() - chosen)]
    return "\n".join([*lines, *[""][:len(warnings)], *(f"- {line}" for line in warnings)]) + "\n"
