"""What may be asked of playing, by name. Nothing here imports JAX."""

WEIGHTS = ("mean", "sample")
"""Weights to play with: the posterior mean, or draws."""

ACTIONS = ("mode", "sample")
"""Actions to take: the most likely, or drawn ones."""

ENGINES = ("jax", "gymnasium", "metaworld")
"""What `--engine` may name; `jax` is the suite itself and needs no module of `engines`."""
