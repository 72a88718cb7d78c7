"""Replay against a brute-force record of everything that happened."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from varshare_jax.algorithms import replay
from varshare_jax.algorithms.replay import Experience

TASKS, ENVS, GAMMA = 2, 3, 0.9
EXAMPLE = Experience(jnp.zeros(2), jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros((), bool),
                     jnp.zeros((), bool), jnp.zeros(2))


def steps(count: int, seed: int = 0) -> Experience:
    """[count, M, N, ...]: obs name (task and env, time), so that a sample tells where it is from;
    final_obs differ from the next obs where an episode ends, as after a reset."""
    rng = np.random.default_rng(seed)
    shape = count, TASKS, ENVS
    time, task, env = np.indices(shape).astype(np.float32)
    obs = np.stack([10 * task + env, time], -1)
    end = rng.choice(3, shape, p=[0.7, 0.15, 0.15])
    final_obs = np.where((end > 0)[..., None], -1 - obs, obs + np.array([0, 1]))
    return Experience(obs, rng.integers(0, 4, shape, np.int32),
                      rng.normal(size=shape).astype(np.float32), end == 1, end == 2,
                      final_obs.astype(np.float32))


def filled(count: int, length: int, chunk: int = 1) -> tuple[replay.Replay, Experience]:
    """A replay of `length` after `count` steps came in rollouts of `chunk`, and those steps."""
    everything = steps(count)
    insert = jax.jit(replay.insert)
    ring = replay.create(EXAMPLE, TASKS, ENVS, length)
    for start in range(0, count, chunk):
        ring = insert(ring, jax.tree.map(lambda x, s=start: x[s:s + chunk], everything))
    return ring, everything


def draw(ring: replay.Replay, seed: int, batch: int, n: int) -> replay.Batch:
    sample = jax.jit(replay.sample, static_argnums=(2, 3))
    return jax.device_get(sample(ring, jax.random.key(seed), batch, n, GAMMA))


def n_step(everything: Experience, task: int, env: int, time: int, n: int):
    """(reward, discount, final_obs) of the transition from `time`, one step after the other."""
    total, discount = 0.0, 1.0
    for t in range(time, min(time + n, len(everything.reward))):
        at = t, task, env
        total += discount * everything.reward[at]
        discount *= GAMMA
        if everything.terminated[at]:
            return total, 0.0, everything.final_obs[at]
        if everything.truncated[at]:
            break
    return total, discount, everything.final_obs[at]


# Empty space left, exactly full, wrapped; T divides L or does not; one rollout as long as L.
FILLS = [(5, 8, 1), (8, 8, 4), (20, 8, 4), (21, 8, 3), (23, 7, 1), (35, 7, 5), (16, 8, 8)]


@pytest.mark.parametrize("n", [1, 3, 11])
@pytest.mark.parametrize(("count", "length", "chunk"), FILLS)
def test_samples_are_the_n_step_transitions_that_happened(count, length, chunk, n):
    ring, everything = filled(count, length, chunk)
    batch = draw(ring, 1, 400, n)
    seen = set()
    for task in range(TASKS):
        starts = [(int(name) - 10 * task, int(time)) for name, time in batch.obs[task]]
        seen |= {(task, *start) for start in starts}
        reward, discount, final_obs = zip(*(n_step(everything, task, *start, n)
                                            for start in starts), strict=True)
        np.testing.assert_allclose(batch.reward[task], reward, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batch.discount[task], discount, rtol=1e-5)
        np.testing.assert_array_equal(batch.final_obs[task], final_obs)
        env, time = np.transpose(starts)
        np.testing.assert_array_equal(batch.action[task], everything.action[time, task, env])
    kept = range(max(0, count - length), count)
    assert seen == {(m, e, t) for m in range(TASKS) for e in range(ENVS) for t in kept}


def test_every_stored_step_is_as_likely_to_be_first():
    ring, _ = filled(11, 8)
    batch = draw(ring, 2, 24_000, 3)
    for task in range(TASKS):
        counts = np.zeros((ENVS, 8))
        env, time = batch.obs[task].astype(int).T
        np.add.at(counts, (env - 10 * task, time - 3), 1)
        assert scipy.stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_tasks_and_keys_draw_apart():
    ring, _ = filled(8, 8)
    first, again, other = draw(ring, 3, 64, 1), draw(ring, 3, 64, 1), draw(ring, 4, 64, 1)
    np.testing.assert_array_equal(first.obs, again.obs)
    assert (first.obs != other.obs).any()
    assert (first.obs[0] != first.obs[1] - np.array([10, 0])).any()


@pytest.mark.parametrize(("count", "length", "chunk"), FILLS)
def test_what_is_stored_is_bit_for_bit_what_came(count, length, chunk):
    ring, everything = filled(count, length, chunk)
    kept = np.arange(max(0, count - length), count)
    for stored, came in zip(ring.steps, everything, strict=True):
        np.testing.assert_array_equal(stored[:, :, kept % length],
                                      np.moveaxis(came[kept], 0, 2))
        assert stored.dtype == came.dtype
    np.testing.assert_array_equal(ring.position, [count % length] * TASKS)
    np.testing.assert_array_equal(replay.size(ring), [ENVS * min(count, length)] * TASKS)


def test_a_rollout_longer_than_the_replay_is_refused():
    ring = replay.create(EXAMPLE, TASKS, ENVS, 4)
    with pytest.raises(ValueError, match="5 steps does not fit a replay of 4"):
        replay.insert(ring, steps(5))


def test_the_bytes_told_are_the_bytes_taken():
    ring = replay.create(EXAMPLE, TASKS, ENVS, 5)
    taken = sum(leaf.nbytes for leaf in jax.tree.leaves(ring))
    assert replay.num_bytes(EXAMPLE, TASKS, ENVS, 5) == taken
    assert all(leaf.shape[0] == TASKS for leaf in jax.tree.leaves(ring))


@functools.partial(jax.jit, static_argnums=2)
def updates(ring: replay.Replay, key: jax.Array, count: int) -> tuple[replay.Replay, jax.Array]:
    """A training loop's use: insert, then sample, `count` times."""
    rollout = jax.tree.map(jnp.asarray, steps(2))

    def update(i, carry):
        ring, total = carry
        ring = replay.insert(ring, rollout._replace(reward=rollout.reward + i))
        batch = replay.sample(ring, jax.random.fold_in(key, i), 5, 3, GAMMA)
        return ring, total + batch.reward.sum()

    return jax.lax.fori_loop(0, count, update, (ring, jnp.zeros(())))


@pytest.mark.parametrize("seeds", [0, 3])
def test_a_loop_updates_a_donated_replay_in_place(seeds):
    """The program needs no memory of a replay's size beside its input, vmapped or not."""
    ring = jax.eval_shape(lambda: replay.create(EXAMPLE, TASKS, ENVS, 10_000))
    key, run = jax.eval_shape(lambda: jax.random.key(0)), lambda r, k: updates(r, k, 4)
    if seeds:
        ring, key = jax.tree.map(lambda x: jax.ShapeDtypeStruct((seeds, *x.shape), x.dtype),
                                 (ring, key))
        run = jax.vmap(run)
    compiled = jax.jit(run, donate_argnums=0).lower(ring, key).compile()
    memory = compiled.memory_analysis()
    stored = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(ring))
    assert memory.temp_size_in_bytes < stored / 100
    assert memory.alias_size_in_bytes >= stored


def test_seeds_side_by_side_are_seeds_alone():
    keys = jax.random.split(jax.random.key(5), 3)
    ring, _ = filled(3, 8)
    together = jax.vmap(lambda k: updates(ring, k, 5))(keys)
    for seed in range(3):
        alone = updates(ring, keys[seed], 5)
        jax.tree.map(lambda a, b, s=seed: np.testing.assert_allclose(a[s], b, rtol=1e-5),
                     together, alone)


def test_tasks_split_over_devices_never_talk():
    """A replay whose leaves are split by tasks stays split, without any exchange."""
    mesh = jax.make_mesh((2,), ("tasks",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("tasks"))
    ring = jax.device_put(filled(3, 8)[0], split)
    compiled = jax.jit(lambda r, k: updates(r, k, 4)[0]).lower(ring, jax.random.key(0)).compile()
    moved, _ = updates(ring, jax.random.key(0), 4)
    jax.tree.map(np.testing.assert_array_equal, compiled(ring, jax.random.key(0)), moved)
    assert all(word not in compiled.as_text()
               for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))
