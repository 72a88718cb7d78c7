"""How long a plan will take, from the speed of earlier runs or else from a guess."""

import statistics
from collections import defaultdict

from varshare_jax.experiments.plan import Plan, PlannedRun
from varshare_jax.runs.files import read_json, read_lines
from varshare_jax.suites import name_folds

# Environment steps a second over all seeds on two CPU cores, by how a suite's name begins: the
# demo's, and what docs/ has of physics that take longer. Other machines differ by a few times.
GUESSES = {"": 300_000.0, "lunar_lander": 70_000.0, "brax": 10_000.0, "mt": 7_000.0}
STARTUP_SECONDS = 20.0  # of a run outside training: imports, compiling, the last evaluation
_SUMMARY = {"suite": str, "method": str, "steps_per_second": float}
_ROW = {"env_steps": int, "steps_per_second": float}


class Forecast:
    """Speeds [steps/s over all seeds] of a plan's runs so far, by suite and method."""

    def __init__(self, plan: Plan):
        self._known: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for path in plan.out.glob("**/summary.json"):
            summary = read_json(path, _SUMMARY)
            suite, method = summary["suite"], summary["method"]
            for key in ((suite, method), (suite,)):
                self._known[key].append(summary["steps_per_second"])

    def speed(self, run: PlannedRun) -> tuple[float, str]:
        """Steps/s and where the number is from: the run itself, its method, its suite, a guess."""
        suite, method = run.config.suite, run.config.method
        if rows := read_lines(run.folder / "train.jsonl", _ROW).rows:
            return rows[-1]["steps_per_second"], "its own speed so far"
        for key, source in (((suite, method), "earlier runs of the method"),
                            ((suite,), "earlier runs of the suite")):
            if key in self._known:
                return statistics.median(self._known[key]), source
        known = max((start for start in GUESSES if suite.startswith(start)), key=len)
        return GUESSES[known], "a guess: no run here yet"

    def seconds(self, run: PlannedRun) -> float:
        """What is left of a run."""
        if run.finished:
            return 0.0
        rows = read_lines(run.folder / "train.jsonl", _ROW).rows
        done = rows[-1]["env_steps"] if rows else 0
        left = max(0, run.config.total_steps - done) * len(name_folds(run.config).members())
        return STARTUP_SECONDS + left / self.speed(run)[0]

    def table(self, plan: Plan) -> str:
        """The plan for people: a line per run, then the whole."""
        width = max(len(run.name) for run in plan.runs)
        lines = [f"{plan.name}: {plan.title}", ""]
        for run in plan.runs:
            config = run.config
            many = len(name_folds(config).configurations())
            swept = f"{many} configurations × " if many > 1 else ""
            effort = f"{config.num_seeds} seeds from {config.seed}, {config.total_steps:,} steps"
            tuned = "" if run.tuned is None else ", tuned " + (
                ", ".join(f"{name}={value}" for name, value in run.tuned.items()) or "in nothing")
            lines.append(
                f"  {run.name:<{width}}  {config.suite}  {config.method}  {swept}"
                f"{effort}{tuned}  "
                + ("finished" if run.finished
                   else f"{clock(self.seconds(run))} ({self.speed(run)[1]})"))
        total = sum(self.seconds(run) for run in plan.runs)
        unfinished = sum(not run.finished for run in plan.runs)
        return "\n".join([*lines, "", f"  {unfinished} of {len(plan.runs)} runs to do, "
                                      f"expected time {clock(total)}, into {plan.out}"])


def describe(plan: Plan) -> str:
    """A search for people: its effort, and each run's dimensions after what all have in common."""
    search, config = plan.searched, plan.runs[0].config
    steps = search.trials * config.num_seeds * config.total_steps * len(plan.runs)
    common = {name for name in plan.runs[0].space if all(name in run.space for run in plan.runs)}
    spaces = {"every run": {name: plan.runs[0].space[name] for name in common}} | {
        run.name: {name: run.space[name] for name in run.space if name not in common}
        for run in plan.runs}
    width = max(map(len, spaces))
    lines = [f"  {who:<{width}}  " + ", ".join(f"{name} {space[name]}" for name in sorted(space))
             for who, space in spaces.items()]
    return "\n".join([
        f"{plan.name}: {plan.title}", "", *lines, "",
        f"  {len(plan.runs)} runs × {search.trials} trials × {config.num_seeds} seeds from "
        f"{config.seed} × {config.total_steps:,} steps: {steps:,} steps without pruning, into "
        f"{plan.out}", ""])


def clock(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
