"""Medians without sorting: XLA's sort on a CPU is a hundred times slower."""

import jax
import jax.numpy as jnp
import numpy as np

_LARGEST = 2**17  # entries; medians of more come from a subset, so that wide networks stay cheap
_BITS = range(30, 12, -1)  # of a float's 31: exponent and ten of the mantissa


def medians(x: jax.Array, sizes: tuple[int, ...] | None = None,
            rows: jax.Array | None = None) -> jax.Array:
    """Medians of sections of the last axis, pooled over the one before: [..., R, P] -> [..., L].

    `sizes` are those of the L sections, side by side; without it all of P is one. `rows` [R] are
    those to pool, all by default. Entries must not
    be negative: such floats are ordered as their bits read as integers are, so the median is found
    from its highest bit down, by counting what lies below. It is the lower of two middle entries,
    to 0.1 %.
    """
    sizes = sizes or (x.shape[-1],)
    section = jnp.sum(jnp.arange(x.shape[-1])[:, None] >= np.cumsum(sizes), -1)
    member = (section[:, None] == np.arange(len(sizes))).astype(jnp.float32)
    count: int | jax.Array = x.shape[-2]
    if rows is not None:
        count, x = rows.sum(), jnp.where(rows[:, None], x, jnp.inf)  # above whatever is counted
    below_middle = (count * np.asarray(sizes) - 1) // 2
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)

    def settle(step, found):
        candidate = found | (jnp.int32(1) << (_BITS.start - step))
        below = bits < jnp.take(candidate, section, axis=-1)[..., None, :]
        count = (below.astype(jnp.float32) @ member).sum(-2)  # exact below 2²⁴
        return jnp.where(count <= below_middle, candidate, found)

    start = jnp.zeros((*x.shape[:-2], len(sizes)), jnp.int32)
    found = jax.lax.fori_loop(0, len(_BITS), settle, start)
    half = jnp.int32(1 << _BITS.stop)  # of what the bits left out are worth
    return jax.lax.bitcast_convert_type(jnp.where(found > 0, found | half, 0), jnp.float32)


def stride(size: int) -> int:
    """Every how many entries to look at when there are `size` of them: 1, or an odd number."""
    step = -(-size // _LARGEST)
    return step | 1 if step > 1 else 1
