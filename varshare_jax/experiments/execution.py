"""Carrying out a plan: one process per run, one after another, then the report.

A process of its own costs each run a few seconds of imports. In exchange a crash, a leak or the
system's memory killer takes one run and not the plan, and every run has the devices to itself.
"""

import contextlib
import dataclasses
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from varshare_jax import suites
from varshare_jax.config import to_flags
from varshare_jax.errors import UserError
from varshare_jax.experiments import grid
from varshare_jax.experiments.forecast import Forecast, clock
from varshare_jax.experiments.plan import Plan, PlannedRun
from varshare_jax.learner import make_problem
from varshare_jax.playing import engines
from varshare_jax.runs.folder import check_same, read_config
from varshare_jax.runs.signals import STOPPED, Stopped
from varshare_jax.settings import flag_value, replace

_LEFT = re.compile(r"(\d+):(\d\d) left\s*$")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line of this package that leaves the file `result` when it is complete."""

    title: str
    module: str
    arguments: tuple[str, ...]
    result: Path

    def __str__(self) -> str:
        return " ".join((f"varshare-{self.module.rpartition('.')[2]}", *self.arguments))


Launch = Callable[[Command, Callable[[str], None]], int]
"""Runs a command, hands on every line that it prints, returns its exit status or raises Stopped."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a plan: the commands that failed and why, and whether a signal ended it."""

    failures: tuple[tuple[Command, str], ...]
    stopped: bool


def check(plan: Plan, *, here: bool = True) -> None:
    """Raises UserError, before any time is spent, for what no run of the plan could survive.

    Engines that its evaluations name are among that: they play when training is over. Runs that
    are not made `here` may have other devices and another memory.
    """
    others = {flags["engine"] for flags in plan.evaluations.values() if "engine" in flags} - {"jax"}
    checked = set()
    for run in plan.runs:
        kind = replace(run.config, {"seed": 0, "run_dir": ""})
        try:
            if kind not in checked:  # suites take a while to make
                suite = make_problem(run.config, here=here).suite
                for engine in sorted(others):
                    engines.check(engine, suite)
        except UserError as error:
            raise UserError(f"{plan.name}: variant {run.name}: {error}") from error
        checked.add(kind)
        if (run.folder / "config.json").exists():
            config = (suites.settle(run.config) if here else suites.settle_as(
                run.config, read_config("--run_dir", run.folder)))
            check_same(run.folder, config)


def conduct(plan: Plan, launch: Launch | None = None, *,
            figure_png: Path | None = None) -> Outcome:
    """Makes the runs that are not finished, each with its evaluations, then the report.

    A command that fails takes the rest of its run with it, not the other runs. The report needs
    one finished run; a signal ends everything without one.
    """
    failures: list[tuple[Command, str]] = []
    try:
        for index in range(len(plan.runs)):
            _make(plan, index, launch or run_process, failures)
    except Stopped as stop:
        print(f"stopped at {stop}; the same command goes on from here", flush=True)
        return Outcome(tuple(failures), stopped=True)
    conclude(plan, figure_png)
    return Outcome(tuple(failures), stopped=False)


def _make(plan: Plan, index: int, launch: Launch, failures: list[tuple[Command, str]]) -> None:
    """One run and its evaluations, up to the first command that fails."""
    run, head = plan.runs[index], f"run {index + 1} of {len(plan.runs)}"
    forecast = Forecast(plan)  # earlier runs of this call have shown their speed by now
    later = sum(forecast.seconds(other) for other in plan.runs[index + 1:])
    for command in commands(plan, run):
        if command.result.exists():
            print(f"[{head}]  {command.title}: finished already", flush=True)
            continue
        teller = _Teller(head, forecast.seconds(run), later)
        status = launch(command, teller)
        if status == STOPPED:
            raise Stopped(command.title)
        if status:
            failures.append((command, teller.last_line or f"exit status {status}"))
            return
        if not command.result.exists():
            failures.append((command, f"left no {command.result.name}"))
            return


def commands(plan: Plan, run: PlannedRun) -> list[Command]:
    """Training, then each of the plan's evaluations."""
    train = (*to_flags(run.config, run.presets), "--resume")
    found = [Command(run.name, "varshare_jax.cli.train", train, run.folder / "summary.json")]
    for name, settings in plan.evaluations.items():
        result = run.folder / f"evaluation_{name}.json"
        flags = tuple(f"--{flag}={value}" for flag, value in settings.items())
        found.append(Command(f"{run.name}, evaluation {name}", "varshare_jax.cli.evaluate",
                             (f"--run={run.folder}", *flags, f"--out={result}"), result))
    if folder := _adapted(plan, run):
        flags = tuple(f"--{flag}={flag_value(value)}" for flag, value in plan.adaptation.items())
        last = "summary" if plan.adaptation.get("regime") == "scratch" else "zero_shot"
        found.append(Command(f"{run.name}, adaptation", "varshare_jax.cli.adapt",
                             (f"--run={run.folder}", f"--run_dir={folder}", *flags, "--resume"),
                             folder / f"{last}.json"))
    return found


def argv(command: Command) -> tuple[str, ...]:
    """What starts the command with this Python."""
    return (sys.executable, "-u", "-m", command.module, *command.arguments)


def _adapted(plan: Plan, run: PlannedRun) -> Path | None:
    """Where the adaptation of a run goes: beside it, as folders within a run are parts of it. None
    for a run that leaves nothing out, or in a plan without adaptation."""
    if not plan.adaptation or run.config.leave_out == "none":
        return None
    return run.folder.with_name(f"{run.folder.name}_adapted")


def run_process(command: Command, hear: Callable[[str], None]) -> int:
    """Runs a command as a process of its own; SIGINT and SIGTERM are passed on to it.

    Raises Stopped once the process has ended after such a signal, however it took it.
    """
    process = subprocess.Popen(
        argv(command), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True)
    with _passing_signals_to(process) as passed_on:
        for line in process.stdout or ():
            hear(line.rstrip())
        status = process.wait()
    if passed_on:
        raise Stopped(command.title)
    return status


@contextlib.contextmanager
def _passing_signals_to(process: subprocess.Popen) -> Iterator[list[int]]:
    """Yields the list of the signals that have come."""
    passed_on: list[int] = []

    def pass_on(number, frame):
        passed_on.append(number)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)

    previous = {n: signal.signal(n, pass_on) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield passed_on
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Teller:
    """Prints what a run prints, behind which run of the plan it is and what the plan has left."""

    def __init__(self, head: str, expected: float, later: float):
        self._head, self._later = head, later
        self._end = time.monotonic() + expected
        self.last_line = ""

    def __call__(self, line: str) -> None:
        if found := _LEFT.search(line):  # the run knows better than the forecast
            self._end = time.monotonic() + 60 * int(found[1]) + int(found[2])
        if line.strip():
            self.last_line = line.strip()
        left = max(0.0, self._end - time.monotonic()) + self._later
        print(f"[{self._head}, {clock(left)} left in all]  {line}", flush=True)


def conclude(plan: Plan, figure_png: Path | None) -> None:
    """The report of what has been evaluated, and what tuning chose."""
    made = [_adapted(plan, run) or run.folder for run in plan.runs]
    folders = [folder for folder in made if (folder / "summary.json").exists()]
    if not folders:
        return
    from varshare_jax.report import write_report  # it imports Matplotlib

    report = write_report(folders, plan.out / "report.html", figure_png=figure_png)
    print(f"\n{report.text_table}\n\nreport: {report.page}")
    if plan.tuning:
        written = grid.write(plan)
        print(f"\n{written.table.read_text()}\ntuned settings: {written.settings}\n"
              f"copy them to where a plan's 'tuned' points")
