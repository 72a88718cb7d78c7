"""Optuna's samplers, pruners, storages and parameters, as a plan's search names them."""

import contextlib
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial

from varshare_jax.config import Config
from varshare_jax.errors import UserError
from varshare_jax.experiments.space import Dimension, Search, Space
from varshare_jax.settings import flag_value, leaves

_LOCK_SECONDS = 60  # that a worker waits for the others to be done with a SQLite file
_TABLES_SECONDS = 5.0


class Sampler(BaseSampler):
    """The search's sampler, begun anew for every trial with a seed of the trial's number.

    So a proposal depends on the study alone: not on which worker asks, or after what restart.
    """

    def __init__(self, search: Search):
        self._search = search

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: Any, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        sampler = self._of(trial, param_name)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _of(self, trial: Any, name: str = "") -> BaseSampler:
        entropy = self._search.sampler_seed, trial.number, zlib.crc32(name.encode())
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        if self._search.sampler == "random":
            return RandomSampler(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(seed=seed, n_startup_trials=self._search.startup, multivariate=True,
                              constant_liar=True)


def make_pruner(search: Search) -> BasePruner:
    """Optuna's pruner of that name; steps are the numbers of evaluations, from 1."""
    if search.pruner == "median":
        return MedianPruner(n_startup_trials=search.startup, n_warmup_steps=search.warmup)
    if search.pruner == "halving":
        return SuccessiveHalvingPruner(min_resource=search.warmup,
                                       reduction_factor=search.reduction)
    return NopPruner()


def open_storage(where: str) -> BaseStorage:
    """A database's URL, or the path of a journal; UserError if it cannot be reached."""
    with reaching(where, ImportError, OSError):  # a database's driver, a journal's folder
        if "://" not in where:
            return JournalStorage(JournalFileBackend(where))
        try:
            return _database(where)
        except sqlalchemy.exc.DBAPIError:  # maybe another worker is making its tables just now
            time.sleep(_TABLES_SECONDS)
            return _database(where)


def _database(where: str) -> RDBStorage:
    waits = {"connect_args": {"timeout": _LOCK_SECONDS}} if where.startswith("sqlite") else {}
    return RDBStorage(where, engine_kwargs=waits)


@contextlib.contextmanager
def reaching(where: str, *others: type[Exception]) -> Iterator[None]:
    """Turns what a storage raises that is gone, and `others`, into UserError."""
    gone: tuple[type[Exception], ...] = (
        sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, *others)
    try:
        yield
    except gone as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"--storage={where}: cannot be reached: {reason}") from error


def given(space: Space, config: Config) -> dict[str, Any]:
    """A trial's parameters that are the settings as the plan has them; {} outside of the space."""
    found = {leaf.name: _stored(leaf.value) for leaf in leaves(config) if leaf.name in space}
    inside = all(found[name] in map(_stored, dimension.choices) if dimension.choices
                 else dimension.low <= found[name] <= dimension.high
                 for name, dimension in space.items())
    return found if inside else {}


def suggest(trial: Trial, space: Space) -> dict[str, Any]:
    """The values of a trial. Storages know no tuples: those are written there as their flags."""
    for name, dimension in space.items():
        if dimension.choices:
            trial.suggest_categorical(name, [_stored(choice) for choice in dimension.choices])
        else:
            trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
    return values(space, trial.params)


def values(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's parameters as values of the configuration."""
    return {name: _value(dimension, params[name]) for name, dimension in space.items()
            if name in params}


def _value(dimension: Dimension, stored: Any) -> Any:
    return next((choice for choice in dimension.choices if _stored(choice) == stored), stored)


def _stored(choice: Any) -> Any:
    return flag_value(choice) if isinstance(choice, tuple) else choice
