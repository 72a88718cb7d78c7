"""What XLA is told beside the program: how to compile long chains of bodies, and what runs once."""

from typing import Any

import jax


def jax_version() -> tuple[int, ...]:
    """Its first two numbers."""
    return tuple(map(int, jax.__version__.split(".")[:2]))


def compiler_options() -> dict[str, Any]:
    """What `jax.jit` of anything that steps MJX or brax must be given as `compiler_options`.

    XLA's CPU backend in jax 0.10 fuses a robot's kinematic chain into kernels that recompute it
    over and over: Meta-World's arm never finishes, and brax's robots compile for twice as long
    and run slower. jax 0.11 neither does so nor knows the option.
    """
    if jax.default_backend() != "cpu" or jax_version() >= (0, 11):
        return {}
    return {"xla_cpu_use_fusion_emitters": False}


def run_once() -> dict[str, Any]:
    """`compiler_options` of a program that runs once: compiled in a fifth of the time, as it is."""
    if jax.default_backend() != "cpu":
        return {}
    return {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True,
            **compiler_options()}
