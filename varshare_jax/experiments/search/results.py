"""What a search leaves behind: the chosen settings, what they were chosen of, every trial."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from varshare_jax.experiments.choice import Trial, Tuned, choose, edges, rule, shown, to_toml
from varshare_jax.experiments.plan import Plan
from varshare_jax.experiments.search import page
from varshare_jax.experiments.search.study import Finished, Study
from varshare_jax.runs.files import write_text


@dataclasses.dataclass(frozen=True)
class Written(Tuned):
    """The files of a search: also every trial as a row of CSV, and the page."""

    trials: Path
    page: Path


def write(plan: Plan, studies: Sequence[Study]) -> Written:
    """Writes `tuning.md`, `tuned.toml`, `trials.csv` and `tuning.html` into the plan's folder."""
    told = {study.run.name: study.finished() for study in studies}
    chosen = {name: best for name, found in told.items() if (best := _chosen(plan, found))}
    written = Written(*(plan.out / name for name in (
        "tuning.md", "tuned.toml", "trials.csv", "tuning.html")))
    write_text(written.table, _table(plan, told, chosen))
    write_text(written.settings, to_toml(
        _effort(plan), {name: best.values for name, best in chosen.items()}))
    write_text(written.trials, _csv(told, chosen))
    write_text(written.page, page.render(plan, studies, told, chosen))
    return written


def _chosen(plan: Plan, told: Sequence[Finished]) -> Finished | None:
    """Among trials that were trained to their end."""
    ended = [trial for trial in told if trial.end == "complete"]
    if not ended:
        return None
    trials = [Trial(trial.values, trial.iqm, trial.area) for trial in ended]
    best = choose(trials, plan.searched.objective)
    return ended[trials.index(best)] if best else None


def _effort(plan: Plan) -> str:
    config, search = plan.runs[0].config, plan.searched
    return (f"Chosen by {plan.name}: {search.trials} trials of each ({search.sampler}, pruner "
            f"{search.pruner}), seeds {config.seed} to {config.seed + config.num_seeds - 1}, "
            f"{config.total_steps:,} steps.")


def _table(plan: Plan, told: Mapping[str, Sequence[Finished]],
           chosen: Mapping[str, Finished]) -> str:
    seeds = plan.runs[0].config.num_seeds
    lines = [f"{plan.title}. {_effort(plan)} {rule(plan.searched.objective)} Neither is "
             "one that was pruned.", "",
             "| run | trials | pruned | diverged | env steps | final IQM | mean over training "
             "| chosen |", "|---|---|---|---|---|---|---|---|"]
    for name, trials in told.items():
        ends = [trial.end for trial in trials]
        best = chosen.get(name)
        scores = (f"{best.iqm:.1f} | {best.area:.1f} | {shown(best.values)}" if best
                  else "– | – | none")
        steps = seeds * sum(trial.env_steps for trial in trials)
        lines.append(f"| {name} | {len(trials)} | {ends.count('pruned')} | "
                     f"{ends.count('diverged')} | {steps:,} | {scores} |")
    spaces = {run.name: run.space for run in plan.runs}
    warnings = [f"- {line}" for line in edges(
        spaces, {name: best.values for name, best in chosen.items()})]
    return "\n".join([*lines, *([""] if warnings else []), *warnings]) + "\n"


def _csv(told: Mapping[str, Sequence[Finished]], chosen: Mapping[str, Finished]) -> str:
    fields = list(dict.fromkeys(name for trials in told.values() for trial in trials
                                for name in trial.values))
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["run", "trial", "end", "chosen", "iqm", "area", "env_steps", *fields])
    for name, trials in told.items():
        for trial in trials:
            writer.writerow([name, trial.number, trial.end, int(trial == chosen.get(name)),
                             trial.iqm, trial.area, trial.env_steps,
                             *(trial.values.get(field, "") for field in fields)])
    return buffer.getvalue()
