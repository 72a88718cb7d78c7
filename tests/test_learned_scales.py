"""Scales that are learned with the weights: they follow the loss, not the optimiser's clock."""

import functools

import jax
import numpy as np
import pytest
from toys import toy

from varshare_jax.variational.gaussian import is_gaussian

SIGNS = (-1.0) ** np.arange(4)  # tasks that oppose each other: residuals are needed
STEPS = 1500


@functools.cache
def toys(which: str):
    if which == "horseshoe":
        return toy("varshare_horseshoe", 4, (10.0, 10.0), 8)
    return toy("varshare", 4, (10.0, 10.0), 8, varshare__controller="empirical_bayes",
               varshare__posterior="natural", varshare__curvature_rate=0.02,
               controller__hyperprior=0.0)


def trained(which: str, departure: float, rate: float = 0.01, **scalars):
    """Variables after training on optima at ± departure from the shared network."""
    made = toys(which)
    start = made.start()
    return made.train(start, made.targets(start, departure * SIGNS), STEPS, rate,
                      **scalars).variables


@functools.cache
def prior_of(departure: float, rate: float, own_rate: float) -> tuple[float, float]:
    """(σ_prior of the layer, the root of its residuals' second moment)."""
    found = trained("empirical_bayes", departure, rate, controller__rate=own_rate)
    moments = [np.ravel(np.square(q.mean) + np.square(q.std))
               for q in jax.tree.leaves(found["task"], is_leaf=is_gaussian)]
    return float(np.exp(found["prior"]["critic_head"])), float(
        np.sqrt(np.concatenate(moments).mean()))


@pytest.mark.parametrize("departure", [0.05, 0.3])
def test_a_learned_prior_is_as_wide_as_its_layers_residuals(departure):
    """From its start of 0.1 it narrows or widens; six times the departure, six times the prior."""
    std, moment = prior_of(departure, 0.01, 0.01)
    np.testing.assert_allclose(std, moment, rtol=0.05)
    np.testing.assert_allclose(std / departure, np.sqrt(2 / 3), rtol=0.1)  # biases do not depart


@pytest.mark.parametrize(("rate", "own_rate"), [(0.005, 0.01), (0.01, 0.005)])
def test_neither_learning_rate_decides_where_a_learned_prior_ends(rate, own_rate):
    np.testing.assert_allclose(prior_of(0.3, rate, own_rate)[0], prior_of(0.3, 0.01, 0.01)[0],
                               rtol=0.05)


@pytest.mark.parametrize("own_rate", [0.01, 0.005])
def test_a_horseshoe_lets_go_of_what_departs_and_shrinks_what_does_not(own_rate):
    """Medians of a unit's scale √(s_a s_b), which starts at 1."""
    def scale(departure):
        layer = trained("horseshoe", departure, horseshoe__rate=own_rate)["task"]["critic_head"]
        return float(np.exp((layer["scale_a"].mean + layer["scale_b"].mean) / 2).mean())

    assert scale(0.5) > 3 * scale(0.02)
    assert scale(0.02) < 0.2
