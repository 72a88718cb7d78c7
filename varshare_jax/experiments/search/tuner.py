"""Working through the studies of a plan: claims go to pools, evaluations to the studies."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna

from varshare_jax.config import Config
from varshare_jax.experiments.forecast import clock
from varshare_jax.experiments.plan import Plan
from varshare_jax.experiments.search import results
from varshare_jax.experiments.search.pool import Pool, Round
from varshare_jax.experiments.search.proposals import open_storage, reaching
from varshare_jax.experiments.search.study import Claim, Study
from varshare_jax.experiments.search.workers import Worker
from varshare_jax.runs.monitoring import Progress
from varshare_jax.runs.signals import Stop, Stopped
from varshare_jax.settings import replace

_POLL_SECONDS = 5.0


def search(plan: Plan, storage: str = "", *, only: Sequence[str] = (),
           quiet: bool = False) -> results.Written | None:
    """Carries out a plan's trials, with whoever else works on the same storage, and writes them.

    `storage` is a database's URL or the path of a journal; "" is `storage_of` the plan's folder.
    `only` names the runs whose trials this worker takes. Returns None if
    runs that it does not take are not complete. Raises Stopped after a signal, and UserError for a
    storage that cannot be reached or that holds other studies of these names.
    """
    with _opened(plan, storage) as studies:
        progress = Progress(plan.name, 1, 1, 1, quiet)
        with Stop(progress.say).listening() as stop:
            _work(_taken(studies, only), stop, progress)
        if stop.asked and not all(study.complete for study in studies):
            raise Stopped(plan.name)
        return _written(plan, studies)


def so_far(plan: Plan, storage: str = "", *,
           only: Sequence[str] = ()) -> tuple[bool, results.Written | None]:
    """Whether the runs that `only` names are complete, and what is written once all are.

    Nothing is trained. Raises UserError as `search` does.
    """
    with _opened(plan, storage) as studies:
        return (all(study.complete for study in _taken(studies, only)), _written(plan, studies))


def storage_of(folder: Path, *, shared: bool = False) -> str:
    """The storage in a plan's folder: the one that is there, else a new SQLite file.

    With `shared` a new one is a journal, which machines may share on a file system without locks.
    """
    journal, database = folder / "study.log", folder / "study.db"
    if journal.exists() or (shared and not database.exists()):
        return str(journal)
    return f"sqlite:///{database}"


@contextlib.contextmanager
def _opened(plan: Plan, storage: str) -> Iterator[list[Study]]:
    """The studies of all runs, made if they are new; errors of the storage become UserError."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan.out.mkdir(parents=True, exist_ok=True)
    where = storage or storage_of(plan.out)
    with contextlib.closing(Worker(plan.out / "workers")) as worker, reaching(where):
        opened = open_storage(where)
        yield [Study(plan, run, opened, where, worker) for run in plan.runs]


def _taken(studies: Sequence[Study], only: Sequence[str]) -> list[Study]:
    return [study for study in studies if not only or study.run.name in only]


def _written(plan: Plan, studies: Sequence[Study]) -> results.Written | None:
    complete = all(study.complete for study in studies)
    return results.write(plan, studies) if complete else None


def _work(studies: Sequence[Study], stop: Stop, progress: Progress) -> None:
    """Study by study, then those again of which others have trials, until all are told.

    Waiting is what lets a worker take over from one that dies.
    """
    while not stop.asked:
        for study in (study for study in studies if not study.complete):
            with study.beating():
                Tuner(study, stop, progress).work()
        if all(study.complete for study in studies) or stop.asked:
            return
        progress.say("other workers have the trials that are left")
        stop.wait(_POLL_SECONDS)


class Tuner:
    """This worker's part of one study: as many claims as there are places, in pools.

    Static values make another program, so claims that have the same ones share a pool, and the
    pool stays for those that come with them later.
    """

    def __init__(self, study: Study, stop: Stop, progress: Progress):
        self._study, self._stop = study, stop
        self._config, self._places = study.run.config, study.search.places
        self.pools: dict[tuple[Any, ...], Pool] = {}
        self._queues: dict[tuple[Any, ...], deque[Claim]] = {}
        self._running: dict[int, Claim] = {}
        self._progress, self._ticker = progress, _Ticker(study, progress)

    def work(self) -> None:
        """Carries out trials until none is left to claim, or until a signal."""
        self._claim()
        while any(self._queues.values()) and not self._stop.asked:
            group = max(self._queues, key=lambda group: len(self._queues[group]))
            self._drain(group)

    def _claim(self) -> None:
        """Claims one trial for every place that nothing runs in or waits for."""
        while sum(map(len, self._queues.values())) + len(self._running) < self._places:
            if (claim := self._study.claim()) is None:
                return
            group = tuple(value for name, value in claim.values.items()
                          if name not in self._config.scalars())
            self._queues.setdefault(group, deque()).append(claim)

    def _drain(self, group: tuple[Any, ...]) -> None:
        """Trains a group's claims side by side until it has none."""
        queue = self._queues[group]
        pool = self._pool(group, queue[0])
        while (queue or self._running) and not self._stop.asked:
            for place in pool.free()[:len(queue)]:
                self._running[place] = queue.popleft()
                pool.fill(place, {name: value for name, value in self._running[place].values.items()
                                  if name in self._config.scalars()})
            self._ticker.tell(self._running, self._places)
            with self._progress.working("training", announce=False):
                rounds = pool.advance(lambda: self._stop.asked)
            for place, at in rounds.items():
                if self._told(self._running[place], at, pool.last):
                    del self._running[place]
                    pool.leave(place)
            self._claim()

    def _told(self, claim: Claim, at: Round, last: int) -> bool:
        over = self._study.tell(claim, at.number, at.returns, at.env_steps, diverged=at.diverged,
                                last=at.number == last)
        self._ticker.shares[claim.trial.number] = at.number / last
        if over:
            del self._ticker.shares[claim.trial.number]
        return over

    def _pool(self, group: tuple[Any, ...], claim: Claim) -> Pool:
        if group not in self.pools:
            static = {name: value for name, value in claim.values.items()
                      if name not in self._config.scalars()}
            config: Config = replace(self._config, static)
            self.pools[group] = Pool(config, self._places, self._study.search.evaluations,
                                     self._progress)
        return self.pools[group]


class _Ticker:
    """The progress of a study: what has been told, by whoever, and what runs here."""

    def __init__(self, study: Study, progress: Progress):
        self._study, self._progress = study, progress
        self._started = self._last = 0.0
        self._done_before = 0.0
        self.shares: dict[int, float] = {}  # of running trials: how much of them is done

    def tell(self, running: dict[int, Claim], places: int) -> None:
        """A line, at most one a second."""
        now = time.monotonic()
        if now - self._last < 1.0:
            return
        self._last = now
        told, trials = self._study.finished(), self._study.search.trials
        done = len(told) + sum(self.shares.values())
        if not self._started:
            self._started, self._done_before = now, done
        gained = done - self._done_before
        left = clock((now - self._started) * (trials - done) / gained) if gained > 0 else "?"
        ended = [trial for trial in told if trial.end == "complete"]
        objective = self._study.search.objective
        best = max(ended, key=lambda trial: trial.value(objective), default=None)
        score = (f"best {best.value(objective):.4g} (trial {best.number})" if best
                 else "none complete")
        self._progress.say(f"{self._study.run.name}: {len(told)} of {trials} trials, "
                           f"{len(told) - len(ended)} ended early  {score}  {len(running)} of "
                           f"{places} places busy  {left} left")
