"""One run's study: trials are claimed from it and told to it, by as many workers as there are.

All that workers know of each other is in Optuna's storage. What a dead one had claimed is claimed
again with the same values; what has been told is never evaluated again.
"""

import contextlib
import datetime
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from varshare_jax.errors import UserError
from varshare_jax.experiments.plan import Plan, PlannedRun
from varshare_jax.experiments.search.proposals import (
    Sampler,
    given,
    make_pruner,
    suggest,
    values,
)
from varshare_jax.experiments.search.workers import Worker
from varshare_jax.report.statistics import interquartile_mean
from varshare_jax.settings import flag_value, leaves

_TOLD = TrialState.COMPLETE, TrialState.PRUNED
_COUNTED = *_TOLD, TrialState.RUNNING, TrialState.WAITING
_SCORING = {"run.eval_episodes", "run.final_eval_episodes", "run.eval_actions"}
_FREE = {"search.trials", "search.places", "run_dir"}  # may change while a study goes on
_NAMELESS_SECONDS = 60.0  # that a trial may be without a worker's name: from asking to naming


class Claim(NamedTuple):
    """A trial that this worker has to carry out, its values by field, mean returns so far."""

    trial: Trial
    values: Mapping[str, Any]
    means: list[float]


class Finished(NamedTuple):
    """A trial that has been told. `end` is "complete", "pruned" or "diverged"; `iqm` and `area`
    are as of then, `env_steps` those of a seed."""

    number: int
    values: Mapping[str, Any]
    end: str
    iqm: float
    area: float
    env_steps: int

    def value(self, objective: str) -> float:
        """That of the search's objective."""
        return self.iqm if objective == "final" else self.area


class Study:
    """The study of a run of a plan in a storage; made there if it is new.

    Raises UserError for a study of that name that was made with other settings.
    """

    def __init__(self, plan: Plan, run: PlannedRun, storage: BaseStorage, where: str,
                 worker: Worker):
        self.name, self.run, self.search = f"{plan.name}.{run.name}", run, plan.searched
        self._worker = worker
        self._study = optuna.create_study(
            storage=storage, study_name=self.name, direction="maximize", load_if_exists=True,
            sampler=Sampler(self.search), pruner=make_pruner(self.search))
        _adopt(self._study, _settings(plan, run), where)

    def beating(self) -> contextlib.AbstractContextManager[None]:
        """Context in which this worker counts as alive, to those on other machines, too."""
        return self._worker.beating(self._study.set_user_attr)

    def claim(self) -> Claim | None:
        """The next trial; None if all are claimed.

        First the plan's own settings, so that no search ends below them but by chance, and what
        dead workers left; then proposals.
        """
        self._take_over()
        self._offer()
        while self._open():
            trial = self._study.ask()
            trial.set_user_attr("worker", self._worker.name)
            if reason := self._void(trial):
                trial.set_user_attr("void", reason)
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            return Claim(trial, suggest(trial, self.run.space), [])
        return None

    def tell(self, claim: Claim, number: int, returns: np.ndarray, env_steps: int, *,
             diverged: int | None, last: bool) -> bool:
        """Tells evaluation `number`, returns [K, M], of a claim; whether the trial is over."""
        trial = claim.trial
        if diverged is not None:
            return self._end(trial, {"env_steps": env_steps, "diverged": diverged})
        claim.means.append(float(returns.mean()))
        iqm, area = float(interquartile_mean(returns)), float(np.mean(claim.means))
        value = iqm if self.search.objective == "final" else area
        trial.report(value, number)
        if not last and not trial.should_prune():
            return False
        notes = {"env_steps": env_steps, "iqm": iqm, "area": area}
        return self._end(trial, notes, value if last else None)

    def finished(self) -> list[Finished]:
        """All trials that have been told, by number."""
        return [self._finished(trial) for trial in self._trials() if trial.state in _TOLD]

    @property
    def complete(self) -> bool:
        """Whether as many trials as the plan wants have been told."""
        return len(self.finished()) >= self.search.trials

    def importance(self) -> dict[str, float]:
        """How much each field decides of a trial's being among the best; {} of too few trials."""
        varied = [name for name, dimension in self.run.space.items()
                  if len(dimension.choices) != 1]
        if sum(trial.state == TrialState.COMPLETE for trial in self._trials()) < 2:
            return {}
        return optuna.importance.get_param_importances(self._study, params=varied)

    def _end(self, trial: Trial, notes: Mapping[str, Any], value: float | None = None) -> bool:
        """Notes come first: a trial that counts as told has them."""
        for name, note in notes.items():
            trial.set_user_attr(name, note)
        self._study.tell(trial, value, TrialState.PRUNED if value is None else None)
        return True

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _open(self) -> bool:
        """Whether there is a trial to claim."""
        states = [trial.state for trial in self._trials()]
        claimed = sum(state in _COUNTED for state in states) - states.count(TrialState.WAITING)
        return TrialState.WAITING in states or claimed < self.search.trials

    def _offer(self) -> None:
        """Puts the plan's own settings in line, once, if the space holds them."""
        own = given(self.run.space, self.run.config)
        offered = any("given" in trial.user_attrs for trial in self._trials())
        if own and not offered and self._open():
            self._study.enqueue_trial(own, {"given": True})

    def _void(self, trial: Trial) -> str:
        """Why a trial just asked for does not count, where workers have asked at the same time."""
        before = [other for other in self._trials()
                  if other.number < trial.number and other.state in _COUNTED]
        if "given" in trial.user_attrs and any("given" in other.user_attrs for other in before):
            return "the plan's settings have been tried already"
        original = trial.user_attrs.get("retry_of")
        if original is not None:
            again = any(other.user_attrs.get("retry_of") == original for other in before)
            return f"trial {original} has been tried again already" if again else ""
        return "there were enough trials" if len(before) >= self.search.trials else ""

    def _take_over(self) -> None:
        """Ends what dead workers have left, and puts the same values in line once more."""
        for trial in self._trials():
            if trial.state == TrialState.RUNNING and not self._alive(trial):
                # Whoever else takes it over at this moment may be faster: ValueError.
                with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
                    self._study.tell(trial.number, state=TrialState.FAIL)
        trials = self._trials()
        again = {trial.user_attrs.get("retry_of") for trial in trials}
        for trial in trials:
            lost = trial.state == TrialState.FAIL and "void" not in trial.user_attrs
            if lost and trial.params and trial.number not in again:
                self._study.enqueue_trial(trial.params, {"retry_of": trial.number})

    def _alive(self, trial: FrozenTrial) -> bool:
        """Whether the worker is that has claimed a trial."""
        if name := trial.user_attrs.get("worker"):
            return self._worker.alive(name, self._study.user_attrs)
        assert trial.datetime_start  # it is running
        age = datetime.datetime.now() - trial.datetime_start
        return age.total_seconds() < _NAMELESS_SECONDS

    def _finished(self, trial: FrozenTrial) -> Finished:
        notes = trial.user_attrs
        end = "diverged" if "diverged" in notes else trial.state.name.lower()
        return Finished(trial.number, values(self.run.space, trial.params), end,
                        notes.get("iqm", -np.inf), notes.get("area", -np.inf), notes["env_steps"])


def _settings(plan: Plan, run: PlannedRun) -> dict[str, str]:
    """All that a trial's scores depend on but its own values, and what decides of proposals."""
    config = {leaf.name: flag_value(leaf.value) for leaf in leaves(run.config)
              if not leaf.name.startswith("run.") or leaf.name in _SCORING}
    search = {f"search.{leaf.name}": flag_value(leaf.value) for leaf in leaves(plan.searched)}
    space = {f"space.{name}": str(dimension) for name, dimension in run.space.items()}
    return {name: text for name, text in (config | search | space).items() if name not in _FREE}


def _adopt(study: optuna.Study, settings: Mapping[str, str], where: str) -> None:
    """Makes a new study this plan's; UserError naming the first setting that another's has."""
    if not study.user_attrs and not study.trials:
        study.set_user_attr("settings", settings)
    known = study.user_attrs.get("settings", {})  # maybe those of a worker that came first
    for name in [*settings, *known]:
        here, there = settings.get(name, "nothing"), known.get(name, "nothing")
        if here != there:
            raise UserError(f"--storage={where}: study {study.study_name} was made with "
                            f"{name}={there}, now {here}; name another --out or --storage")
