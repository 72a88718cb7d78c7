"""Widths at which methods have equally many parameters."""

import functools

import pytest

from varshare_jax import config as C
from varshare_jax import suites
from varshare_jax.errors import UserError
from varshare_jax.learner import make_network, make_problem
from varshare_jax.methods import METHODS, capacity

SETTINGS = {
    "mlp": {"network.hidden": (64, 64)},
    "wide": {"network.hidden": (256, 128, 64), "network.trunk": "shared"},
    "bronet": {"network.hidden": (64, 64), "network.torso": "bronet"},
}


@pytest.mark.parametrize(("name", "choice"), [*((name, "matched") for name in SETTINGS),
                                              ("mlp", "merged")])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_parameters_are_within_two_percent(method, name, choice):
    make = functools.partial(make_network, suite=suites.make("cartpole10"))
    counted = capacity.COUNTS[choice]
    config = C.replace(C.Config(capacity=choice), SETTINGS[name])
    target = capacity.parameters(make(config), counted)
    matched = capacity.match(C.replace(config, {"method": method}), make)
    assert abs(capacity.parameters(make(matched), counted) / target - 1) <= 0.02
    if method == "varshare":
        assert matched.network == config.network


def test_the_network_has_the_matched_widths_and_the_config_the_given_ones():
    """So that a run whose stored config is read again gets the same network."""
    config = C.Config(method="hard_sharing", capacity="matched")
    problem = make_problem(config)
    assert problem.network.method.config.network.hidden == (113, 114)
    assert problem.config == config
    assert make_problem(C.from_dict(C.to_dict(problem.config))).network == problem.network


def test_once_merged_residuals_and_one_network_for_all_are_equally_wide():
    """VarShare merges θ and a mean into one network, and so does L2-soft."""
    widths = {method: make_problem(C.Config(method=method, capacity="merged"))
              .network.method.config.network.hidden for method in ("hard_sharing", "l2_soft")}
    assert widths == {"hard_sharing": (64, 64), "l2_soft": (64, 64)}


@pytest.mark.parametrize(("choice", "counted"), [("matched", "active"), ("merged", "merged")])
def test_widths_too_coarse_to_match_are_refused(choice, counted):
    config = C.Config(method="soft_modularization", capacity=choice,
                      network=C.NetworkConfig(hidden=(2,)))
    with pytest.raises(UserError, match=rf"--capacity={choice}: .* {counted} .*nearest widths"):
        make_problem(config)
