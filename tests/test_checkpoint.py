import itertools
import json
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from varshare_jax.errors import UserError
from varshare_jax.runs import checkpoint
from varshare_jax.variational.gaussian import Gaussian


def make_state(seed=0, width=3):
    """Everything that a TrainState may hold: keys, booleans, counters, empty arrays, nesting."""
    keys = jax.random.split(jax.random.key(seed), 4)
    return {
        "variables": {"task": Gaussian(jax.random.normal(keys[0], (2, width)),
                                       jnp.full((2, width), jnp.nan)), "shared": {}},
        "env": (jnp.zeros((2, 0)), jnp.array([True, False]), jnp.array([-0.0, jnp.inf])),
        "keys": keys.reshape(2, 2), "key": keys[0], "update": jnp.int32(7)}


def shapes(**options):
    return jax.eval_shape(lambda: make_state(**options))


def assert_equal(one, other):
    """Same structure, types and bits."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def no_warning(text):
    raise AssertionError(text)


@pytest.fixture
def saved(tmp_path):
    """Checkpoints 1 and 2 of different states."""
    for update in (1, 2):
        checkpoint.save(tmp_path, update, make_state(update), keep=2)
    return tmp_path


def test_a_state_comes_back_bit_for_bit(saved):
    state, update = checkpoint.restore_newest(saved, shapes(), no_warning)
    assert update == 2
    assert_equal(state, make_state(2))
    assert jnp.array_equal(jax.random.normal(state["key"]),
                           jax.random.normal(make_state(2)["key"]))


def test_notes_come_back(tmp_path):
    checkpoint.save(tmp_path, 5, make_state(), 1, {"wall_seconds": 1.25, "diverged": []})
    assert checkpoint.read_note(tmp_path, 5) == {"wall_seconds": 1.25, "diverged": []}


def test_nothing_saved_is_no_checkpoint(tmp_path):
    assert checkpoint.restore_newest(tmp_path, shapes(), no_warning) is None
    assert checkpoint.restore_newest(tmp_path / "missing", shapes(), no_warning) is None


def test_the_newest_are_kept(tmp_path):
    for update in (8, 9, 10, 11):  # 9 < 10 as numbers, not as text
        checkpoint.save(tmp_path, update, make_state(), keep=2)
    assert names(tmp_path) == ["10", "11"]


def test_unfinished_writes_are_not_checkpoints_and_go_with_the_next(saved):
    shutil.copytree(saved / "2", saved / "3.partial")
    assert checkpoint.restore_newest(saved, shapes(), no_warning)[1] == 2
    checkpoint.save(saved, 4, make_state(), keep=2)
    assert names(saved) == ["2", "4"]


def test_a_damaged_newer_checkpoint_does_not_push_out_a_sound_one(saved):
    """After falling back from 9 to 2, the run saves 3: the only sound state must stay."""
    (saved / "9").mkdir()
    checkpoint.save(saved, 3, make_state(3), keep=1)
    assert names(saved) == ["3"]
    assert_equal(checkpoint.restore_newest(saved, shapes(), no_warning)[0], make_state(3))


class Killed(BaseException):
    """Ends a save as a kill does: no handler of errors gets to tidy up."""


def kill_at(monkeypatch, moment):
    """Ends the save at the moment-th of its steps on the disk, before that step is taken."""
    steps, inside = itertools.count(), []

    def guard(owner, name):
        function = getattr(owner, name)

        def step(*given, **named):
            if not inside and next(steps) == moment:
                raise Killed
            inside.append(name)  # what orbax does in turn is its own affair
            try:
                return function(*given, **named)
            finally:
                inside.pop()

        monkeypatch.setattr(owner, name, step)

    for owner, name in ((Path, "mkdir"), (Path, "rename"), (Path, "write_text"),
                        (shutil, "rmtree"), (ocp.PyTreeCheckpointer, "save")):
        guard(owner, name)


def test_a_kill_at_any_step_of_a_save_leaves_only_whole_checkpoints(saved, monkeypatch):
    (saved / "9").mkdir()  # damaged, so that it goes as well
    outcomes = []
    for moment in itertools.count():
        with monkeypatch.context() as patched:
            kill_at(patched, moment)
            try:
                checkpoint.save(saved, 3, make_state(3), keep=1)
            except Killed:
                outcomes.append("killed")
            else:
                break
        shutil.rmtree(saved / "9", ignore_errors=True)
        state, update = checkpoint.restore_newest(saved, shapes(), no_warning)
        assert_equal(state, make_state(update))
        outcomes.append(update)
        if update == 3:  # killed while tidying up: again from where it began
            shutil.rmtree(saved / "3")
            checkpoint.save(saved, 2, make_state(2), keep=1)
        (saved / "9").mkdir()
    assert names(saved) == ["3"]
    assert outcomes.count("killed") >= 5
    assert {2, 3} < set(outcomes)


def test_saving_again_replaces(saved):
    checkpoint.save(saved, 2, make_state(5), keep=2)
    assert names(saved) == ["1", "2"]
    assert_equal(checkpoint.restore_newest(saved, shapes(), no_warning)[0], make_state(5))


def truncate(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def unlink(path):
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, flip, unlink])
def test_damage_to_any_file_is_noticed(saved, damage, tmp_path_factory):
    """For every file of the newest: the one before, and a warning that names the file."""
    sound = tmp_path_factory.mktemp("sound") / "copy"
    shutil.copytree(saved, sound)
    for file in sorted(p.relative_to(saved) for p in (saved / "2").rglob("*") if p.is_file()):
        shutil.rmtree(saved)
        shutil.copytree(sound, saved)
        damage(saved / file)
        said = []
        state, update = checkpoint.restore_newest(saved, shapes(), said.append)
        assert_equal(state, make_state(1))
        assert (update, len(said)) == (1, 1)
        assert f"{saved / '2'} is damaged ({file.relative_to('2')}" in said[0]


def test_every_flip_in_the_manifest_is_noticed(saved):
    """Above all none may pass for a checkpoint of another structure, which is refused."""
    path = saved / "2" / "manifest.json"
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0x01
        path.write_bytes(damaged)
        said = []
        state, update = checkpoint.restore_newest(saved, shapes(), said.append)
        assert_equal(state, make_state(update))
        assert (update, len(said)) == (1, 1), damaged[place - 20:place + 20]


def test_all_damaged_is_none_and_each_is_named(saved):
    for update in "12":
        truncate(saved / update / "manifest.json")
    said = []
    assert checkpoint.restore_newest(saved, shapes(), said.append) is None
    assert [str(saved / "2") in said[0], str(saved / "1") in said[1]] == [True, True]


def test_another_shape_is_refused_by_name(saved):
    with pytest.raises(UserError, match=r"'variables\.task\.mean' is float32\[2, 3\], "
                                        r"expected float32\[2, 4\]"):
        checkpoint.restore_newest(saved, shapes(width=4), no_warning)


def test_another_type_is_refused_by_name(saved):
    like = shapes() | {"update": jax.ShapeDtypeStruct((), jnp.float32)}
    with pytest.raises(UserError, match="'update' is int32"):
        checkpoint.restore_newest(saved, like, no_warning)


@pytest.mark.parametrize(("add", "where"), [(True, "this program"), (False, "the checkpoint")])
def test_another_structure_is_refused_by_name(saved, add, where):
    like = shapes()
    like["extra" if add else "update"] = like.pop("update")
    if add:
        like["update"] = like["extra"]
    else:
        del like["update"]
    name = "extra" if add else "update"
    with pytest.raises(UserError, match=f"only {where} has '{name}'"):
        checkpoint.restore_newest(saved, like, no_warning)


@pytest.mark.parametrize("limit", [1, 700])
def test_a_full_disk_is_an_error_and_leaves_the_others(saved, limit):
    """The limit on file sizes stands for a full disk: at the first byte, or within the data."""
    before = {p: p.read_bytes() for p in saved.rglob("*") if p.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write checkpoint .*/3: .*"):
            checkpoint.save(saved, 3, make_state(3), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p: p.read_bytes() for p in before} == before
    # Orbax's threads may still be adding to 3.partial; the next save takes it away.
    assert [p.name for p in checkpoint.checkpoints(saved)] == ["2", "1"]


def test_the_manifest_is_plain_json(saved):
    content = json.loads((saved / "2" / "manifest.json").read_text())["content"]
    assert content["update"] == 2
    assert content["leaves"]["update"]["dtype"] == "int32"
