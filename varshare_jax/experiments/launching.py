"""Plans on a cluster: a job for each run or worker, awaited here, and again from here.

Who starts the command again while jobs are there waits for these jobs. Nothing is submitted twice.
"""

import contextlib
import fcntl
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from varshare_jax.experiments.cluster import ENDED, QUEUED, RUNNING, UNKNOWN, Cluster, Submitted
from varshare_jax.experiments.execution import Command, Outcome, argv, commands, conclude
from varshare_jax.experiments.forecast import clock
from varshare_jax.experiments.plan import Plan
from varshare_jax.runs.job import Job, Step
from varshare_jax.runs.monitoring import Progress
from varshare_jax.runs.signals import Stop, Stopped

FOLDER = "jobs"
_POLL_SECONDS, _LINE_SECONDS = 1.0, 8.0
_SHOWN = 10  # last lines of the log of a job that has failed


def conduct(plan: Plan, *, figure_png: Path | None = None) -> Outcome:
    """Makes the runs that are not finished as jobs of the plan's cluster, then the report.

    A signal ends the waiting, not the jobs. Raises UserError for what the cluster refuses.
    """
    left: dict[str, list[Command]] = {}
    for run in plan.runs:
        if missing := [each for each in commands(plan, run) if not each.result.exists()]:
            left[run.name] = missing
    steps = {name: [Step(argv(each), each.result) for each in missing]
             for name, missing in left.items()}
    try:
        failed = carry_out(plan, steps, len(plan.runs) - len(left))
    except Stopped:
        return Outcome((), stopped=True)
    conclude(plan, figure_png)
    return Outcome(tuple((next((each for each in left[name] if not each.result.exists()),
                               left[name][0]), reason)
                         for name, reason in failed.items()), stopped=False)


def share(plan: Plan, arguments: Sequence[str]) -> dict[str, str]:
    """Starts as many workers on the plan's search as its launcher says, and waits for them.

    `arguments` are those of `varshare-tune`. Returns why workers failed. Raises Stopped after a
    signal, and UserError for what the cluster refuses.
    """
    worker = Command("worker", "varshare_jax.cli.tune", tuple(arguments), plan.out / "tuned.toml")
    return carry_out(plan, {f"worker_{number}": [Step(argv(worker))]
                            for number in range(1, plan.launcher.workers + 1)})


def carry_out(plan: Plan, steps: Mapping[str, Sequence[Step]], finished: int = 0) -> dict[str, str]:
    """Submits what is not with the cluster yet, and waits for all; why those failed that did.

    `steps` by the name of their job; `finished` is how many more are finished already. Raises
    Stopped after a signal, once it is told how to come back.
    """
    if not steps:
        return {}
    progress = Progress(plan.name, 1, 1, 1)
    cluster = Cluster(plan.out / FOLDER, plan.name, plan.launcher)
    with Stop(lambda text: None).listening() as stop:
        jobs: list[Submitted] = []
        with _alone(plan.out / FOLDER):
            for name, its in steps.items():
                if not stop.asked:
                    jobs.append(_submitted(cluster, name, Job(its, plan.launcher.grace), progress))
        watch = _Watch(cluster, jobs, progress, finished)
        while not watch.over() and not stop.wait(_POLL_SECONDS):
            pass
    if stop.asked:
        _tell_how_to_come_back(progress, watch.left, len(steps) - len(jobs))
        raise Stopped(plan.name)
    return watch.failed


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Context of one process at a time, where the file system has locks."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _submitted(cluster: Cluster, name: str, job: Job, progress: Progress) -> Submitted:
    """The job of that name that the cluster has, or else a new one."""
    known = cluster.find(name)
    for there in known:
        if there.state() != ENDED:
            progress.say(f"{name}: job {there.id} is there already, its log is {there.log}")
            return there
    if known:
        said = known[-1].failure() or "it is not complete"
        progress.say(f"{name}: job {known[-1].id} has ended: {said}; once more:")
    new = cluster.submit(name, job)
    progress.say(f"{name}: submitted as job {new.id}, its log is {new.log}")
    return new


def _tell_how_to_come_back(progress: Progress, jobs: Sequence[Submitted], others: int) -> None:
    ids = " ".join(job.id for job in jobs)
    there = f"jobs {ids} go on by themselves" if jobs else "no job is left"
    more = f", {others} are not submitted" if others else ""
    progress.say(f"stopped by a signal; {there}{more}; the same command comes back to them, "
                 "or submits what is missing")


class _Watch:
    """Jobs until all have ended: their number by state, and the last word of one."""

    def __init__(self, cluster: Cluster, jobs: Sequence[Submitted], progress: Progress,
                 finished: int):
        self._cluster, self.left = cluster, list(jobs)
        self._progress, self._finished = progress, finished
        self._started = time.monotonic()
        self._told_at, self._told = 0.0, ""
        self.failed: dict[str, str] = {}

    def over(self) -> bool:
        """Looks after the jobs once; whether none is left."""
        self._cluster.refresh(self.left)
        for job in [job for job in self.left if job.over()]:
            self.left.remove(job)
            if reason := job.failure():
                self.failed[job.name] = reason
                self._show(job)
            else:
                self._finished += 1
        self._tell()
        return not self.left

    def _show(self, job: Submitted) -> None:
        lines = "".join(f"\n    {line}" for line in job.tail(_SHOWN))
        self._progress.say(f"{job.name}: job {job.id} failed: {self.failed[job.name]}; the end of "
                           f"{job.log}:{lines}")

    def _tell(self) -> None:
        """A line where a number has changed, and before ten seconds have passed without one."""
        found = Counter(job.state() for job in self.left)
        unknown = f"{found[UNKNOWN]} unknown to the cluster, " if found[UNKNOWN] else ""
        counts = (f"{unknown}{found[QUEUED]} queued, {found[RUNNING] + found[ENDED]} running, "
                  f"{self._finished} finished, {len(self.failed)} failed")
        now = time.monotonic()
        if counts == self._told and now - self._told_at < _LINE_SECONDS:
            return
        self._told_at, self._told = now, counts
        self._progress.say(f"{counts}  {clock(now - self._started)}{self._last_word()}")

    def _last_word(self) -> str:
        """The last line of the job that has printed most recently."""
        logs = [(job.log.stat().st_mtime, job) for job in self.left if job.log.exists()]
        if not logs:
            return ""
        job = max(logs, key=lambda log: log[0])[1]
        return f"  | {job.name}: {line}" if (line := "".join(job.tail(1))) else ""
