"""One writer to a folder, the right settings under every checkpoint, nothing dropped in silence."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    PAIRS,
    assert_same_run,
    copy_of,
    error_line,
    newest,
    quick_compile,
    snapshot,
)

from varshare_jax import config, runner
from varshare_jax.errors import UserError
from varshare_jax.learner import Learner, check_memory
from varshare_jax.playing import policies
from varshare_jax.runs import checkpoint, files, folder, lock
from varshare_jax.runs.devices import Layout
from varshare_jax.runs.monitoring import RunWriter
from varshare_jax.runs.record import Record

METHOD = next(iter(PAIRS))
HOLD = """
import sys, time, pathlib
from varshare_jax.runs.lock import only_writer
with only_writer(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], text=True,
                              stdout=subprocess.PIPE)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {holder.pid} on .* since 20") as caught, \
            lock.only_writer(tmp_path):
        pass
    assert str(caught.value).startswith(f"--run_dir={tmp_path}: ")
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with lock.only_writer(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()
        with pytest.raises(UserError, match=f"process {os.getpid()} "), lock.only_writer(tmp_path):
            pass


def test_of_two_writers_one_ends_with_one_line(cli, interrupted, finished, tmp_path):
    run = copy_of(interrupted(METHOD), tmp_path / "run")
    first = cli.start(run.settings, "--resume")
    for line in first.stdout:
        if "resuming at update" in line:  # it holds the lock
            break
    line = error_line(cli(run.settings, "--resume"))
    assert f"process {first.pid} on " in line
    done = cli.end(first)
    assert (done.returncode, done.stderr) == (0, "")
    assert_same_run(run.folder, finished(METHOD).folder)


def test_a_run_without_its_config_is_continued_under_its_own_settings_alone(
        cli, interrupted, finished, tmp_path):
    run = copy_of(interrupted(METHOD), tmp_path / "run")
    (run.folder / "config.json").unlink()
    before = snapshot(run.folder)
    other = config.replace(run.settings, {"ppo.learning_rate": 0.5})
    for settings, resume, said in ((run.settings, False, "not its config.json; add --resume"),
                                   (other, False, "not its config.json; add --resume"),
                                   (other, True, "with --ppo.learning_rate=0.001, now 0.5")):
        with pytest.raises(UserError, match=said):
            runner.train(settings, resume=resume, quiet=True)
    assert snapshot(run.folder) == before
    done = cli(run.settings, "--resume")
    assert (done.returncode, done.stderr) == (0, "")
    assert_same_run(run.folder, finished(METHOD).folder)
    assert folder.read_config("", run.folder) == run.settings
    (run.folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"holds train\.jsonl of a run but not its config.json"):
        runner.train(run.settings, resume=True, quiet=True)


def test_a_changed_config_does_not_get_another_ones_checkpoint(interrupted, tmp_path):
    run = copy_of(interrupted(METHOD), tmp_path / "run")
    tree = files.read_json(run.folder / "config.json")
    tree["ppo"]["normalize_observations"] = False
    files.write_json(run.folder / "config.json", tree)
    said = "has ppo.normalize_observations=False, its newest checkpoint was made with True"
    with pytest.raises(UserError, match=said):
        policies.load(run.folder)
    changed = config.replace(run.settings, {"ppo.normalize_observations": False})
    with pytest.raises(UserError, match=said):
        runner.train(changed, resume=True, quiet=True)


def test_resume_alone_reads_the_settings_and_takes_others_of_the_run_section(
        cli, interrupted, finished, tmp_path):
    """But no cache of programs: what is in one is executed."""
    run = copy_of(interrupted(METHOD), tmp_path / "moved")
    tree = files.read_json(run.folder / "config.json")
    tree["run"]["compile_cache"] = str(tmp_path / "poisoned")
    files.write_json(run.folder / "config.json", tree)
    done = cli(f"--run_dir={run.folder}", "--resume", "--run.keep_checkpoints=1",
               f"--run.compile_cache={run.settings.run.compile_cache}")
    assert (done.returncode, done.stderr) == (0, "")
    assert_same_run(run.folder, finished(METHOD).folder)
    assert not (tmp_path / "poisoned").exists()
    stored = folder.read_config("", run.folder)
    assert stored.run.keep_checkpoints == 1
    assert done.stdout.splitlines()[-1].split("  ")[1].startswith("done: eval ")
    assert done.stdout.splitlines()[-1].endswith(f"s; {run.folder}")


def test_a_longer_training_is_another_run(finished):
    run = finished(METHOD)
    longer = config.replace(run.settings, {"total_steps": 10**6})
    with pytest.raises(UserError, match=r"--total_steps=.* scheduled over all steps"):
        runner.train(longer, resume=True, quiet=True)


def test_a_renamed_checkpoint_is_no_newer_one(interrupted, tmp_path):
    run = copy_of(interrupted(METHOD), tmp_path / "run")
    saved = run.folder / "checkpoints"
    shutil.copytree(saved / "4", saved / "999")
    shutil.copytree(saved / "4", saved / "²")  # a digit, but no number
    shutil.copytree(saved / "4", saved / "005")
    like, said = jax.eval_shape(Learner.make(run.settings).init_seeds), []
    assert checkpoint.restore_newest(saved, like, said.append)[1] == 4
    assert len(said) == 1
    assert "999 is damaged (manifest.json: is of update 4)" in said[0]


ROW = {"update": 1, "env_steps": 10, "metrics": {"return": [[1.0]]}}


def log(path: Path, lines: list[str]) -> None:
    path.write_text("".join(lines))


@pytest.mark.parametrize("damage", ['{"update": 2, "env', "null", "{}", '{"update": "2"}',
                                    "[" * 9999])
def test_a_damaged_row_is_kept_and_told(tmp_path, capsys, damage):
    rows = [json.dumps(ROW | {"update": u}) for u in (1, 2, 3)]
    log(tmp_path / "train.jsonl", [rows[0] + "\n", damage + "\n", rows[2] + "\n"])
    before = (tmp_path / "train.jsonl").read_bytes()
    RunWriter(tmp_path, ("task",), 3, 30, False).close()
    assert [row["update"] for row in files.read_rows(tmp_path / "train.jsonl")] == [1, 3]
    assert (tmp_path / "train.jsonl.damaged").read_bytes() == before
    assert "train.jsonl: 1 lines cannot be read (2); the file is kept as" in capsys.readouterr().err


def test_a_row_that_a_kill_has_cut_off_is_no_damage(tmp_path, capsys):
    log(tmp_path / "train.jsonl", [json.dumps(ROW) + "\n", '{"update": 2, "env'])
    RunWriter(tmp_path, ("task",), 1, 10, False, known={"train": 1}).close()
    assert capsys.readouterr().err == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["eval.jsonl", "train.jsonl"]


def test_missing_rows_are_told(interrupted, cli, tmp_path):
    run = copy_of(interrupted(METHOD), tmp_path / "run")
    (run.folder / "train.jsonl").unlink()
    done = cli(run.settings, "--resume")
    assert done.returncode == 0
    assert done.stderr == (f"warning: {run.folder / 'train.jsonl'}: 4 of the 4 rows up to update "
                           "4 are missing; training goes on without them\n")


def test_sweep_values_that_print_alike_have_folders_of_their_own():
    swept = config.Config(run_dir="x", sweep="varshare.beta=0.1,0.1000000001,1e-7,3")
    assert [c.run_dir for c in swept.configurations()] == [
        "x/beta=0.1", "x/beta=0.1000000001", "x/beta=1e-07", "x/beta=3"]
    with pytest.raises(UserError, match=r"names 'varshare\.beta' twice"):
        config.Config(sweep="varshare.beta=1;varshare.beta=2").configurations()


@pytest.mark.parametrize(("sweep", "said"), [
    ("ppo.num_envs=1,2", "--sweep=ppo.num_envs=…: is not traced, .*; traced of ppo: .*ppo.clip"),
    ("num_seeds=1,2", "--sweep=num_seeds=…: is not traced, .*; --help marks those that are"),
    ("dqn.learning_rate=1,2", "dqn.learning_rate=…: nothing of --algorithm=ppo reads it"),
    ("ppo.clpi=1,2", "--sweep: field=ppo.clpi: unknown; did you mean 'ppo.clip'?$"),
    ("beta=1,2", "--sweep: field=beta: unknown; did you mean 'varshare.beta'?$"),
])
def test_a_sweep_says_what_it_cannot_vary_and_what_it_can(sweep, said):
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        config.Config(sweep=sweep).configurations()


def test_the_program_of_a_resumed_run_is_that_of_a_new_one(tiny, tmp_path):
    """Or resuming would compile it again: the text that XLA gets is the same to the letter."""
    for suite, method, algorithm in (("cartpole10", "varshare", "ppo"),
                                     ("gymnax:Pendulum-v1", "hard_sharing", "vmpo"),
                                     ("lunar_lander", "independent", "dqn")):
        learner = Learner.make(tiny(suite=suite, method=method, algorithm=algorithm))
        with quick_compile():
            state = learner.init_seeds()
        checkpoint.save(tmp_path / suite, 1, state, 1)
        like = jax.eval_shape(learner.init_seeds)
        restored, _ = checkpoint.restore_newest(tmp_path / suite, like, print)
        layout = Layout.choose(1, learner.problem.suite.num_tasks)
        texts = [jax.jit(learner.update_many, out_shardings=(layout.shardings(s), None)).lower(
            layout.place(s), jnp.int32(1)).as_text() for s in (state, restored)]
        assert texts[0] == texts[1]


@pytest.mark.parametrize(("changes", "flag"), [
    ({"ppo.num_envs": 10**9}, "ppo.num_envs"),
    ({"network.hidden": (10**6, 10**6)}, "network.hidden"),
    ({"run.eval_episodes": 10**9}, "run.eval_episodes"), ({"ppo.epochs": 2**31 - 1}, "ppo.epochs"),
    ({"algorithm": "dqn", "dqn.replay_size": 2 * 10**9}, "dqn.replay_size"),
    ({"algorithm": "dqn", "dqn.gradient_steps": 2 * 10**9}, "dqn.gradient_steps"),
    ({"suite": "lunar_lander20", "ppo.rollout_length": 10**9},
     "ppo.num_envs=16 × rollout_length"),
    ({"varshare.draws": 2 * 10**9}, "varshare.draws"),
    ({"run.log_every": 2 * 10**9, "total_steps": 10**14}, "run.log_every")])
def test_what_is_too_large_is_one_line_that_names_it(changes, flag, tmp_path):
    settings = config.replace(config.Config(run_dir=str(tmp_path / "run")), changes)
    with pytest.raises(UserError, match=f"--{flag}=[^:]*: too much: one seed .* GiB"):
        runner.train(settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{"ppo.epochs": 10**23}, {"num_seeds": 10**6},
                                     {"total_steps": 10**18}])
def test_counts_are_bounded(changes):
    with pytest.raises(UserError, match="must not exceed"):
        config.replace(config.Config(), changes).validate()


def test_a_long_chunk_costs_no_more_than_the_training_has_updates(tiny):
    learner = Learner.make(tiny(total_steps=10 * 16 * 2, **{"run.log_every": 10**9}))
    _, metrics = jax.eval_shape(learner.update_many, jax.eval_shape(learner.init_seeds),
                                jnp.int32(1))
    assert metrics["loss"].shape == (1, 2, 10)


def test_memory_is_counted_over_seeds():
    check_memory({"a": 1.0, "b": 2.0}, 3)
    with pytest.raises(UserError, match=r"--b: too much: 3 seeds need about"):
        check_memory({"a": 1e30, "b": 2e30}, 3)


def test_skipped_steps_are_counted_and_told_once(tiny, capsys):
    problem = Learner.make(tiny(suite="cartpole10", num_seeds=2)).problem
    record = Record(problem, quiet=True)
    skipped, steps = np.zeros((2, 3, 10)), np.full((2, 3, 10), 4.0)
    skipped[1, 1:, 3] = 0.5
    metrics = {"loss": np.where(skipped > 0, np.nan, 1.0), "return": np.ones_like(steps),
               "success": np.ones_like(steps), "skipped": skipped, "gradient_steps": steps}
    record.training(metrics, 3)
    record.training(metrics, 3)
    task = problem.suite.task_names[3]
    assert list(record.skipped.values()) == [
        {"member": 1, "seed": 1, "task": task, "update": 1, "steps": 8}]
    assert record.diverged == {}
    assert capsys.readouterr().err == (
        "warning: seed 1: gradients that are not finite at update 1; such steps are left out and "
        f"counted for {task}\n")
    metrics["skipped"][1, 2, 3] = 1.0
    record.training(metrics, 3)
    assert [d["update"] for d in record.diverged.values()] == [8]


def test_a_signal_while_compiling_ends_at_once(cli, tiny, tmp_path):
    """Acknowledged, with the status that says "again, later"; nothing stands in the way of that."""
    settings = tiny(suite="cartpole10", run_dir=str(tmp_path / "run"),
                    **{"run.compile_cache": ""})
    process = cli.start(settings, before="""
import hashlib
from varshare_jax.runs.devices import Layout
def compile_for_ever(*given):
    print("compiling", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # like XLA: no instruction of Python's for long
Layout.compile_both = compile_for_ever
""")
    for line in process.stdout:
        if line == "compiling\n":
            break
    process.send_signal(signal.SIGTERM)
    done = cli.end(process)
    assert (done.returncode, done.stderr) == (75, "")
    assert "SIGTERM: stops at once, there is nothing to save" in done.stdout
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [lock.NAME]


def test_rows_are_heard_as_they_are_written(tiny, tmp_path):
    heard = []
    settings = tiny(suite="cartpole", total_steps=32, run_dir=str(tmp_path / "run"))
    with quick_compile():
        runner.train(settings, quiet=True, on_row=lambda kind, row: heard.append((kind, row)))
    assert [kind for kind, _ in heard] == ["train", "train", "eval"]
    for kind in ("train", "eval"):
        written = files.read_rows(tmp_path / "run" / f"{kind}.jsonl")
        assert [files.plain(row) for k, row in heard if k == kind] == written
    assert newest(tmp_path / "run") == 2
