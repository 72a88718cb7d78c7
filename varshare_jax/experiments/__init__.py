"""Experiments as data: a plan names the runs, `conduct` makes them and reports."""

from varshare_jax.experiments.execution import Outcome, check, conduct
from varshare_jax.experiments.forecast import describe
from varshare_jax.experiments.plan import Plan, PlannedRun, load, names, title

__all__ = ["Outcome", "Plan", "PlannedRun", "check", "conduct", "describe", "load", "names",
           "title"]
