"""Numerical integration of equations of motion."""

from collections.abc import Callable
from typing import Any

import jax


def runge_kutta(derivative: Callable[[Any], Any], state: Any, duration: float, steps: int) -> Any:
    """`state`, any tree, after `duration` [s] in so many steps of the fourth order."""
    h = duration / steps

    def ahead(state: Any, slope: Any, time: float) -> Any:
        return jax.tree.map(lambda x, d: x + time * d, state, slope)

    def step(_: Any, state: Any) -> Any:
        first = derivative(state)
        second = derivative(ahead(state, first, h / 2))
        third = derivative(ahead(state, second, h / 2))
        last = derivative(ahead(state, third, h))
        return jax.tree.map(lambda x, a, b, c, d: x + h / 6 * (a + 2 * b + 2 * c + d),
                            state, first, second, third, last)

    return jax.lax.fori_loop(0, steps, step, state)
