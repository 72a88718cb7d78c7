"""Spreading one program over devices; on a CPU every core is made a device.

XLA's own threads split single operations, which pays little for networks this small: the same
program sharded over one device per core trains about twice as fast (docs/benchmarks.md).
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from varshare_jax.types import TrainState, is_shared

AXIS = "devices"
Program = tuple[Callable, jax.Array]
"""A function of a state and the argument beside it."""


def use_cpu_cores(limit: int = 0) -> None:
    """Makes each CPU core a device; without effect once JAX has started its backends."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(RuntimeError):  # somebody else started JAX: their devices serve
        jax.config.update("jax_num_cpu_devices", min(cores or 1, limit or cores or 1))


def choose_axis(seeds: int, tasks: int, available: int) -> tuple[int, int]:
    """(axis, devices): which of [S, M] to split over how many devices.

    The most devices that divide an axis win; on a tie seeds before tasks, because seeds never
    talk to each other and tasks only through the shared gradient. Envs are never split: for one
    task and seed, one device is faster.
    """
    best = [max(d for d in range(1, available + 1) if size % d == 0) for size in (seeds, tasks)]
    axis = int(np.argmax(best))
    return axis, best[axis]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a state [S, ...] is split: along `axis` of [S, M] over the devices of a mesh."""

    axis: int
    mesh: Mesh

    @classmethod
    def choose(cls, seeds: int, tasks: int) -> "Layout":
        """The best use of all devices that this process has."""
        axis, count = choose_axis(seeds, tasks, jax.local_device_count())
        return cls(axis, Mesh(np.array(jax.local_devices()[:count]), (AXIS,)))

    def place(self, state: TrainState) -> TrainState:
        """Copies every leaf to where it belongs."""
        return jax.device_put(state, self.shardings(state))

    def compile(self, function: Callable, state: TrainState, argument: jax.Array,
                returns_state: bool) -> Callable:
        """Compiles function(state, argument), whose other arrays all lead with S.

        `argument` is a scalar or leads with S. A function that returns (state, rest) has its
        state donated and gets it back in place.
        """
        return self._trace(function, state, argument, returns_state).compile()

    def compile_both(self, state: TrainState, train: Program, play: Program,
                     compiler_options: Mapping[str, Any]) -> tuple[Callable, Callable]:
        """`train`, which returns (state, rest), and `play`, as by `compile`, at the same time.

        Much of what XLA does for a program is done by a single thread. `compiler_options` are
        those of the suite.
        """
        options = dict(compiler_options)
        with ThreadPoolExecutor(1) as aside:
            training = aside.submit(self._trace(train[0], state, train[1], True).compile, options)
            playing = self._trace(play[0], state, play[1], False).compile(options)
            return training.result(), playing

    def _trace(self, function: Callable, state: TrainState, argument: jax.Array,
               returns_state: bool) -> jax.stages.Lowered:
        outputs = None
        if self.axis == 0:
            # Seeds are independent programs; saying so spares XLA's partitioner from finding out.
            specs = PartitionSpec(AXIS), PartitionSpec(AXIS) if argument.ndim else PartitionSpec()
            function = jax.shard_map(function, mesh=self.mesh, in_specs=specs,
                                     out_specs=PartitionSpec(AXIS), check_vma=False)
        if returns_state:
            outputs = self.shardings(state), None
        jitted = jax.jit(function, donate_argnums=0 if returns_state else (),
                         out_shardings=outputs)
        with jax.set_mesh(self.mesh):
            return jitted.lower(state, argument)

    def shardings(self, state: TrainState) -> TrainState:
        """A NamedSharding for each leaf.

        Split by tasks are `world`, `stats`, `own`, and the agent's collections but for the shared.
        """
        def everywhere(tree: Any, *axes: str | None) -> Any:
            return jax.tree.map(lambda _: NamedSharding(self.mesh, PartitionSpec(*axes)), tree)

        if self.axis == 0:
            return everywhere(state, AXIS)

        def of_agent(path: tuple[Any, ...], leaf: jax.Array) -> NamedSharding:
            axes = () if is_shared(path) else (None, AXIS)
            return NamedSharding(self.mesh, PartitionSpec(*axes))

        agent = state.agent.replace(memory={})
        placed = jax.tree_util.tree_map_with_path(of_agent, agent)
        return everywhere(state).replace(
            agent=placed.replace(memory=everywhere(state.agent.memory)),
            **{name: everywhere(getattr(state, name), None, AXIS)
               for name in ("world", "stats", "own")})
