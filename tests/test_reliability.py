"""Runs that are stopped, killed, damaged or diverge: nothing is lost and nothing changes."""

import json
import random
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    FUZZ,
    PAIRS,
    SUITES,
    assert_same_run,
    copy_of,
    error_line,
    newest,
    quick_compile,
    rows,
    snapshot,
    stop_of,
)

from varshare_jax import config, runner, suites
from varshare_jax.errors import UserError
from varshare_jax.learner import Learner
from varshare_jax.runs import checkpoint, monitoring
from varshare_jax.runs.devices import Layout
from varshare_jax.runs.files import read_rows
from varshare_jax.runs.monitoring import RunWriter
from varshare_jax.runs.record import Record

METHOD = next(iter(PAIRS))  # the one of 4 seeds on 2 devices


def test_every_kind_of_suite_takes_part():
    assert set(PAIRS.values()) == set(SUITES)
    assert {stop_of(method) for method in PAIRS} == {"SIGKILL", "SIGTERM"}


def resume(settings: config.Config, capsys) -> tuple[str, list[str]]:
    """Resumes in this process: what it printed, and the lines on the error stream."""
    capsys.readouterr()
    with quick_compile():
        runner.train(settings, resume=True)
    shown = capsys.readouterr()
    return shown.out, shown.err.splitlines()


@pytest.mark.parametrize("method", PAIRS)
def test_a_resumed_run_is_bit_identical_to_one_never_stopped(cli, interrupted, finished,
                                                             tmp_path, capsys, method):
    """What stops is a process of its own; what resumes is one for the first method."""
    half = interrupted(method)
    assert newest(half.folder) == 4
    assert not (half.folder / "summary.json").exists()
    if stop_of(method) == "SIGTERM":  # trains to the end of the chunk, saves, says how to go on
        assert (half.process.returncode, half.process.stderr) == (75, "")
        assert "SIGTERM: stops after this chunk of updates" in half.process.stdout
        assert "stopped by a signal at update 4; continue with --resume" in half.process.stdout
    else:
        assert half.process.returncode == -9
    run = copy_of(half, tmp_path / "run")
    if method == METHOD:
        process = cli.start(run.settings, "--resume")
        straight = finished(method)  # on the other core meanwhile
        done = cli.end(process)
        assert (done.returncode, done.stderr) == (0, "")
        out = done.stdout
    else:
        straight = finished(method)
        out, complaints = resume(run.settings, capsys)
        assert complaints == []
    assert "resuming at update 4 of 6" in out
    assert_same_run(run.folder, straight.folder)


def test_a_finished_run_tells_how_alike_its_tasks_have_become(finished):
    run = finished("l2_soft")
    seeds, tasks = SUITES[PAIRS["l2_soft"]]
    cosines = np.array(json.loads((run.folder / "similarity.json").read_text()))
    assert cosines.shape == (seeds, tasks, tasks)
    np.testing.assert_array_equal(cosines, cosines.swapaxes(1, 2))
    np.testing.assert_allclose(np.diagonal(cosines, axis1=1, axis2=2), 1.0)
    summary = json.loads((run.folder / "summary.json").read_text())
    assert (summary["score_range"] is not None) == ("cartpole" in run.settings.suite)


def damage_newest(folder: Path) -> None:
    """Flips one bit in the middle of the largest file of the newest checkpoint."""
    files = (folder / "checkpoints" / str(newest(folder))).rglob("*")
    path = max((p for p in files if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_all(folder: Path) -> None:
    """A manifest cut off in one, gone from the other."""
    first, second = (folder / "checkpoints").iterdir()
    (first / "manifest.json").write_text('{"crc32": 1')
    (second / "manifest.json").unlink()


def test_damaged_checkpoints_are_skipped_and_the_run_ends_the_same(interrupted, finished, tmp_path,
                                                                   capsys):
    one, all_ = (copy_of(interrupted(METHOD), tmp_path / name) for name in ("one", "all"))
    damage_newest(one.folder)
    damage_all(all_.folder)
    out, lines = resume(one.settings, capsys)
    assert len(lines) == 1
    assert lines[0].startswith(f"warning: checkpoint {one.folder / 'checkpoints' / '4'} is damaged")
    assert "resuming at update 2 of 6" in out
    _, lines = resume(all_.settings, capsys)
    assert len(lines) == 3
    assert "every checkpoint" in lines[-1]
    assert "starting from the beginning" in lines[-1]
    for run in (one, all_):
        assert_same_run(run.folder, finished(METHOD).folder)


def test_a_checkpoint_of_another_network_is_refused(interrupted, tmp_path):
    """Not mistaken for damage: the entry is named, and nothing is trained over it."""
    run = copy_of(interrupted(METHOD), tmp_path / "run")
    other = config.replace(run.settings, {"network.hidden": (16,)})
    checkpoint.save(run.folder / "checkpoints", 5, Learner.make(other).init_seeds(), keep=1,
                    note={"wall_seconds": 1.0, "diverged": []})
    before = snapshot(run.folder)
    with pytest.raises(UserError, match=r"expected float32\[4, 8\]") as refused:
        runner.train(run.settings, resume=True, quiet=True)
    entry = "'agent.optimizer.mu.shared.actor.0.bias' is float32[4, 16]"
    assert f"does not fit: {entry}" in str(refused.value)
    assert snapshot(run.folder) == before


FULL_DISKS = {
    "checkpoint": ("cannot write checkpoint", """
from varshare_jax.runs import checkpoint as module
name, when = "save", lambda folder, update, *rest: update == 6
"""),
    "summary": ("cannot write", """
from varshare_jax import runner as module
name, when = "write_json", lambda path, *rest: path.name == "summary.json"
"""),
}
FILL = """
import resource
write = getattr(module, name)
def fill_the_disk(*given):
    if when(*given):
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    return write(*given)
setattr(module, name, fill_the_disk)
"""


def test_a_full_disk_loses_nothing(cli, interrupted, finished, tmp_path, capsys):
    """A limit on file sizes stands for it: one line, and once there is room the run completes."""
    runs = {name: copy_of(interrupted(METHOD), tmp_path / name) for name in FULL_DISKS}
    failed = cli.together(*(([runs[name].settings, "--resume"], {"before": hook + FILL})
                            for name, (_, hook) in FULL_DISKS.items()))
    for done, (name, (message, _)) in zip(failed, FULL_DISKS.items(), strict=True):
        line = error_line(done)
        assert f"{message} {runs[name].folder}" in line
        assert "File too large" in line
        assert newest(runs[name].folder) == {"checkpoint": 4, "summary": 6}[name]
        assert not (runs[name].folder / "summary.json").exists()
    for run in runs.values():
        assert resume(run.settings, capsys)[1] == []
        assert_same_run(run.folder, finished(METHOD).folder)


def kill_at_random(cli, run_flags, folder: Path, moments: random.Random, starting: bool) -> bool:
    """Starts or resumes and kills -9: while starting, or while training, which here is mostly
    writing checkpoints. Returns whether it was killed, rather than done before.
    """
    before = newest(folder)
    process = cli.start(*run_flags, "--resume")
    if not starting:
        deadline = time.monotonic() + 200
        while newest(folder) == before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    time.sleep(moments.uniform(0.5, 4.0) if starting else moments.uniform(0.0, 0.6))
    process.kill()
    done = cli.end(process)
    assert done.stderr == ""  # above all no word of damage
    return done.returncode == -9


KILLED = {  # every algorithm on every kind of suite's state, replay and MuJoCo's included
    "cartpole": {"method": "hard_sharing"},
    "gymnax:Pendulum-v1": {"method": "varshare", "algorithm": "vmpo"},
    "lunar_lander": {"method": "independent"},
    "cartpole10": {"method": "varshare", "algorithm": "dqn"},
    "mt1:reach": {"method": "l2_soft", "metaworld.horizon": 20},
}
KILLS = 3 if FUZZ == 1 else 10  # of each


@pytest.mark.parametrize("suite", [*KILLED][:1 if FUZZ == 1 else None])
def test_kills_at_random_moments_lose_no_more_than_the_work_since_the_last_checkpoint(
        cli, tiny, tmp_path, suite):
    tasks = suites.make(suite).num_tasks
    settings = tiny(suite=suite, total_steps=13 * KILLS * tasks * 16,
                    run_dir=str(tmp_path / "killed"), **KILLED[suite],
                    **{"run.checkpoint_every": 1})
    straight = config.replace(settings, {"run_dir": str(tmp_path / "straight")})
    like = jax.eval_shape(Learner.make(suites.settle(settings)).init_seeds)
    folder, moments, kills, safe = tmp_path / "killed", random.Random(20), 0, 0
    for kill in range(KILLS):
        kills += kill_at_random(cli, [settings], folder, moments, kill % 3 == 1)
        complaints = []
        found = checkpoint.restore_newest(folder / "checkpoints", like, complaints.append)
        assert found
        assert not complaints
        assert found[1] >= safe
        safe = found[1]
        logged = [row["update"] for row in read_rows(folder / "train.jsonl")]
        assert logged == list(range(1, len(logged) + 1))
        assert safe <= len(logged) <= safe + 1
    assert kills >= KILLS - 1
    process = cli.start(settings, "--resume")
    with quick_compile():
        runner.train(straight, quiet=True)  # on the other core meanwhile
    done = cli.end(process)
    assert (done.returncode, done.stderr) == (0, "")
    assert_same_run(folder, tmp_path / "straight")


def poison(state, seed: int):
    """NaN in one parameter of one seed."""
    leaves, structure = jax.tree.flatten(state.agent.variables)
    leaves[0] = leaves[0].at[seed].set(jnp.nan)
    variables = jax.tree.unflatten(structure, leaves)
    return state.replace(agent=state.agent.replace(variables=variables))


def raw(leaf) -> np.ndarray:
    """Bits of an array, of a key as well."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).view(np.uint8) if leaf.ndim else np.asarray(leaf)


def test_a_seed_that_diverges_leaves_the_others_alone_to_the_bit(tmp_path, settings_of):
    """Through the very program that the runner compiles; seeds 0 and 1 share a device."""
    learner = Learner.make(settings_of(METHOD, tmp_path))
    seeds, tasks = SUITES[PAIRS[METHOD]]
    layout = Layout.choose(seeds, tasks)
    assert (seeds, layout.axis, layout.mesh.size) == (4, 0, 2)
    with quick_compile():
        start = learner.init_seeds()
        advance = layout.compile(learner.update_many, layout.place(start), jnp.int32(1), True)
    results = []
    for state in (start, poison(start, seed=1)):
        state = layout.place(jax.tree.map(jnp.copy, state))
        for _ in range(3):
            state, metrics = advance(state, jnp.int32(1))
        results.append((state, metrics))
    clean, poisoned = results
    assert np.isnan(poisoned[1]["loss"][1]).all()
    assert np.isfinite(clean[1]["loss"]).all()
    others = np.array([0, 2, 3])
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(poisoned), strict=True):
        assert np.array_equal(raw(a)[others], raw(b)[others])


def test_a_diverged_seed_is_reported_and_survives_a_resume(settings_of, finished, monkeypatch,
                                                           capsys, tmp_path):
    """Stderr names it, its scores are null, those of the others are what they always were."""
    settings = settings_of(METHOD, tmp_path / "run")
    monkeypatch.setattr(monitoring, "_TICK_SECONDS", 1e-3)

    def stop(self, row, log=RunWriter.train):
        log(self, row)
        if row["update"] == 3:  # after the checkpoint of update 2
            raise KeyboardInterrupt

    init = Learner.init_seeds
    with quick_compile(), monkeypatch.context() as patched:
        patched.setattr(Learner, "init_seeds", lambda self: poison(init(self), seed=1))
        patched.setattr(RunWriter, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            runner.train(settings)
    shown = capsys.readouterr()
    assert "warning: seed 1 diverged (loss not finite) at update 0, task " in shown.err
    for what in ("after update 1 ...", "saving update 2 ...", "evaluating after update 2 ..."):
        assert what in shown.out  # a slow chunk, evaluation or disk is not silence
    with quick_compile():
        summary = runner.train(settings, resume=True).summary
    assert capsys.readouterr().err == ""  # reported once
    assert [(d["seed"], d["update"]) for d in summary["diverged"]] == [(1, 0)]
    expected = json.loads((finished(METHOD).folder / "summary.json").read_text())
    assert expected["diverged"] == []
    for seed, (scores, usual) in enumerate(zip(summary["eval"]["return"],
                                               expected["eval"]["return"], strict=True)):
        assert scores == ([None] * 10 if seed == 1 else usual)
    usual = rows(finished(METHOD).folder, "eval")
    for row, other in zip(rows(tmp_path / "run", "eval"), usual, strict=True):
        assert row["return"] == [*other["return"][:1], [None] * 10, *other["return"][2:]]


def test_the_first_task_without_a_finite_loss_is_named(tiny, capsys):
    problem = Learner.make(tiny(suite="cartpole10", num_seeds=3, seed=40)).problem
    record = Record(problem, quiet=True)
    record.update = 100
    loss = np.zeros((3, 5, 10))  # [S, chunk, M]
    loss[1, 2, 7], loss[1, 3, :] = np.nan, np.inf
    record._note_divergence(loss)
    record._note_divergence(loss)
    task = problem.suite.task_names[7]
    assert record.diverged == {1: {"member": 1, "seed": 41, "task": task, "update": 102}}
    assert capsys.readouterr().err == (
        f"warning: seed 41 diverged (loss not finite) at update 102, task {task}; "
        f"other seeds go on\n")


def test_beta_is_logged_update_by_update(tiny):
    """Others are means over a row's updates, between which a controller may have acted."""
    problem = Learner.make(tiny(suite="cartpole10", num_seeds=2)).problem
    record, written = Record(problem, quiet=True), []
    record.writer.train = written.append
    beta = np.broadcast_to(np.array([1.0, 1.1, np.nan]), (2, 3))[..., None] * np.ones(10)
    record.training({"loss": beta, "return": beta, "success": beta, "beta": beta}, 2)
    np.testing.assert_allclose(written[0]["every_update"]["beta"], [[1.0, 1.1]] * 2)
    np.testing.assert_allclose(written[0]["metrics"]["beta"], np.full((2, 10), 1.05))


def test_a_finished_run_whose_checkpoints_are_gone_still_has_its_summary(finished, tmp_path,
                                                                         capsys):
    run = copy_of(finished(METHOD), tmp_path / "run")
    damage_newest(run.folder)
    result = runner.train(run.settings, resume=True, quiet=True)
    assert result.state is None  # rather than that of an earlier update
    assert result.summary == json.loads((run.folder / "summary.json").read_text())
    assert "is damaged" in capsys.readouterr().err


def test_sixteen_seeds_do_not_hang(cli, tiny, tmp_path):
    """Orthogonal initialisation batched over seeds may wait for XLA's CPU threads for ever.

    With the 16 × 10 networks here that happened every other time, so it is done a few times over.
    """
    settings = tiny(suite="cartpole10", method="independent", num_seeds=16, total_steps=160,
                    run_dir=str(tmp_path / "run"), **{"network.hidden": (64, 64)})
    done = cli(settings, before="""
from varshare_jax.learner import Learner
def again_and_again(self, init=Learner.init_seeds):
    return [init(self) for _ in range(8)][-1]
Learner.init_seeds = again_and_again
""")
    assert (done.returncode, done.stderr) == (0, "")
    scores = json.loads((tmp_path / "run" / "summary.json").read_text())["eval"]["return"]
    assert [len(row) for row in scores] == [10] * 16
