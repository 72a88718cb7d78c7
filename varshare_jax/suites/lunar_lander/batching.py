"""Work that only some environments of a batch need, done for those alone."""

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

CHUNK = 128


def where_needed(function, needed: jax.Array, arguments, otherwise, chunk: int = CHUNK):
    """`function(arguments)` where `needed` [...], else `otherwise`.

    Leaves of `arguments`, of `otherwise` and of what `function` returns end with the axes of
    `needed`; the function must work elementwise along them. One environment takes a branch. Of a
    batch, those in need are gathered `chunk` at a time, so the cost follows their number: a
    `jnp.where` would compute the function for all. `jax.vmap` keeps this property.
    """
    @custom_vmap
    def run(needed, arguments, otherwise):
        return _gathered(function, needed, arguments, otherwise, chunk)

    @run.def_vmap
    def batched(axis_size, in_batched, *operands):
        def last(x, has_axis):
            if has_axis:
                return jnp.moveaxis(x, 0, -1)
            return jnp.broadcast_to(x[..., None], (*x.shape, axis_size))

        out = run(*jax.tree.map(last, operands, tuple(in_batched)))
        return (jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), out),
                jax.tree.map(lambda _: True, out))

    return run(needed, arguments, otherwise)


def _gathered(function, needed, arguments, otherwise, chunk: int):
    if needed.ndim == 0:
        return jax.lax.cond(needed, function, lambda _: otherwise, arguments)
    if needed.ndim > 1:
        axes = needed.ndim

        def flat(x):
            return x.reshape(*x.shape[:x.ndim - axes], -1)

        out = _gathered(function, needed.reshape(-1), jax.tree.map(flat, arguments),
                        jax.tree.map(flat, otherwise), chunk)
        return jax.tree.map(lambda x: x.reshape(*x.shape[:-1], *needed.shape), out)
    size = needed.shape[0]
    chunk = min(chunk, size)
    # Indices of those in need, first ones first; `size` (dropped when writing) fills the rest.
    rank = jnp.cumsum(needed) - 1
    indices = jnp.full(size + chunk, size).at[jnp.where(needed, rank, size + chunk)].set(
        jnp.arange(size), mode="drop")
    count = rank[-1] + 1

    def some(carry):
        start, out = carry
        taken = jax.lax.dynamic_slice(indices, (start,), (chunk,))
        done = function(jax.tree.map(lambda x: jnp.take(x, taken, axis=-1, mode="clip"), arguments))
        return start + chunk, jax.tree.map(
            lambda all_, new: all_.at[..., taken].set(new, mode="drop"), out, done)

    _, out = jax.lax.while_loop(lambda carry: carry[0] < count, some, (0, otherwise))
    return out
