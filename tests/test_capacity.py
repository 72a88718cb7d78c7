"""Widths at which methods have equally many active parameters."""

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


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("method", sorted(METHODS))
def test_active_parameters_are_within_two_percent(method, name):
    make = functools.partial(make_network, suite=suites.make("cartpole10"))
    config = C.replace(C.Config(capacity="matched"), SETTINGS[name])
    target = capacity.active(make(config))
    matched = capacity.match(C.replace(config, {"method": method}), make)
    assert abs(capacity.active(make(matched)) / target - 1) <= 0.02
    if method == "varshare":
        assert matched.network == config.network


def test_the_network_has_the_matched_widths_and_the_config_the_given_ones():
    """So that a run whose stored config is read again gets the same network."""
    config = C.Config(method="hard_sharing", capacity="matched")
    problem = make_problem(config)
    assert problem.network.method.config.network.hidden == (113, 114)
    assert problem.config == config
    assert make_problem(C.from_dict(C.to_dict(problem.config))).network == problem.network


def test_widths_too_coarse_to_match_are_refused():
    config = C.Config(method="paco", capacity="matched", network=C.NetworkConfig(hidden=(2,)))
    with pytest.raises(UserError, match=r"paco cannot match .*nearest widths"):
        make_problem(config)
