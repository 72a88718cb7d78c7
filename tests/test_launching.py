"""Jobs of a cluster: submitted once, preempted and killed, found again. Slurm is two scripts here,
jobs are submitit's own on this machine."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import PLAN, STOPS, TIMEOUT, assert_same_run, load_plan, quick_compile

from varshare_jax import experiments, runner, suites
from varshare_jax.config import Config, replace
from varshare_jax.errors import UserError
from varshare_jax.experiments import cluster, launching
from varshare_jax.runs.files import write_text
from varshare_jax.runs.job import Job, Step
from varshare_jax.runs.signals import STOPPED, Stopped

pytest.importorskip("submitit", reason="needs varshare_jax[cluster]")

SMALL = PLAN + """
total_steps = 96
run.log_every = 1
run.checkpoint_every = 2
run.final_eval_episodes = 1
run.tensorboard = false
launcher.cluster = "local"
launcher.hours = 1
[variants.preempted]
method = "hard_sharing"
[variants.killed]
method = "hard_sharing"
"""


@pytest.fixture
def plan(tmp_path):
    """Loads a plan from its text, its runs inside tmp_path/out."""
    def make(text: str = SMALL, **options) -> experiments.Plan:
        return load_plan(tmp_path, text, overrides={"run.devices": 2}, **options)

    return make


def shell(script: str, result: Path | None = None) -> list[Step]:
    """A step that trains nothing."""
    return [Step(("sh", "-c", script), result)]


def submitted(plan: experiments.Plan) -> list[str]:
    """A name for every job that there was."""
    return sorted(path.parents[1].name for path in (plan.out / "jobs").rglob("*_submitted.pkl"))


PREEMPTED = """
import time
from varshare_jax.runs.monitoring import RunWriter
def preempted_at(self, row, log=RunWriter.train):
    log(self, row)
    if row["update"] == 4:
        os.kill(os.getppid(), signal.SIGUSR2)
        until = time.monotonic() + 60
        while signal.getsignal(signal.SIGTERM) != signal.SIG_DFL and time.monotonic() < until:
            time.sleep(0.05)
RunWriter.train = preempted_at
"""


def test_a_preempted_and_a_killed_run_end_as_if_never_stopped(plan, monkeypatch, capsys, tmp_path):
    """Each at its fourth update of six: one is put in line again, the other is submitted again."""
    moments = {"preempted": PREEMPTED, "killed": STOPS["SIGKILL"]}
    monkeypatch.setattr(launching, "argv", lambda command: (
        sys.executable, "-u", "-c", f"import os, signal\n{moments[command.title]}\n"
        "from varshare_jax.cli.train import main\nmain()", *command.arguments))
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    loaded = plan()
    outcome = launching.conduct(loaded)
    assert [(c.title, why) for c, why in outcome.failures] == [("killed", "killed by SIGKILL")]
    assert submitted(loaded) == ["killed", "preempted"]
    log = next((loaded.out / "jobs" / "preempted").rglob("*_log.out")).read_text()
    assert "SIGTERM: stops after this chunk" in log
    assert "resuming at update 4 of 6" in log
    shown = capsys.readouterr().out
    assert "0 queued, 0 running, 1 finished, 1 failed" in shown
    assert not launching.conduct(loaded).failures
    assert submitted(loaded) == ["killed", "killed", "preempted"]
    shown = capsys.readouterr().out
    assert "has ended: killed by SIGKILL; once more" in shown
    assert "0 queued, 0 running, 2 finished, 0 failed" in shown
    assert (loaded.out / "report.html").exists()
    with quick_compile():
        runner.train(replace(loaded.runs[0].config, {"run_dir": str(tmp_path / "never")}),
                     quiet=True)
    for run in loaded.runs:
        assert_same_run(run.folder, tmp_path / "never")
    assert not launching.conduct(loaded).failures  # finished: no job is left to be submitted
    assert submitted(loaded) == ["killed", "killed", "preempted"]


def test_a_signal_leaves_jobs_which_the_next_call_waits_for(plan, capsys, tmp_path):
    loaded, gate = plan(), tmp_path / "gate"
    steps = {name: shell(f"touch {tmp_path / name}; while [ ! -e {gate} ]; do sleep 0.1; done; "
                         f"touch {tmp_path / name}.done", tmp_path / f"{name}.done")
             for name in ("one", "two")}

    def stop():
        while not all((tmp_path / name).exists() for name in steps):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Stopped):
        launching.carry_out(loaded, steps)
    thread.join()
    for path in (loaded.out / "jobs").rglob("*_submitted.pkl"):  # ^C reaches all of a terminal
        os.kill(int(path.name.partition("_")[0]), signal.SIGINT)
    shown = capsys.readouterr().out
    assert "go on by themselves; the same command comes back to them" in shown
    opening = threading.Timer(1.5, gate.touch)
    opening.start()
    assert launching.carry_out(loaded, steps) == {}
    opening.join()
    assert submitted(loaded) == ["one", "two"]
    shown = capsys.readouterr().out
    assert shown.count("is there already, its log is ") == 2
    assert "2 running, 0 finished, 0 failed" in shown
    assert all((tmp_path / f"{name}.done").exists() for name in steps)


def test_a_job_that_fails_is_shown_and_stops_no_other(plan, capsys, tmp_path):
    loaded = plan()
    done = tmp_path / "done"
    steps = {"bad": shell("echo first; echo the last words >&2; exit 3"),
             "empty": shell("true", tmp_path / "nothing.json"),
             "good": [*shell(f"touch {done}", done), *shell("echo and the next")]}
    failed = launching.carry_out(loaded, steps)
    assert failed == {"bad": "exit status 3", "empty": "left no nothing.json"}
    shown = capsys.readouterr().out
    assert "\n    first\n    the last words\n    exit status 3\n" in shown
    assert "1 finished, 2 failed" in shown


def test_a_process_that_does_not_save_in_time_is_killed(tmp_path):
    """The job asks for the same steps once more, and they go on from where they are."""
    job = Job([*shell(f"echo x >> {tmp_path / 'once'}; touch {tmp_path / 'done'}",
                      tmp_path / "done"),
               *shell(f"trap '' TERM; touch {tmp_path / 'begun'}; sleep 60 & wait; wait")], 11.0)
    found = []

    def preempt(number, frame):
        found.append(job.checkpoint())

    before = signal.signal(signal.SIGUSR2, preempt)

    def ask():
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR2)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        assert job() == -signal.SIGKILL
    finally:
        thread.join()
        signal.signal(signal.SIGUSR2, before)
    again = found[0].function
    assert isinstance(again, Job)
    (tmp_path / "begun").unlink()
    assert Job(again._steps[:1], 1.0)() == 0
    assert (tmp_path / "once").read_text() == "x\n"


def test_a_stop_that_nobody_asked_for_waits_for_the_cluster(monkeypatch):
    waited = []
    monkeypatch.setattr(time, "sleep", lambda seconds: waited.append(seconds))
    assert Job(shell(f"exit {STOPPED}"), 45.0)() == STOPPED
    assert 45.0 in waited


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Stands in for Slurm: job 17 runs if there is a file `runs`; `state` is what sacct says."""
    folder, job = tmp_path / "bin", f"SLURM_JOB_ID=17 sh {tmp_path}/script >/dev/null 2>&1 &"
    folder.mkdir()
    scripts = {
        "sbatch": f'[ -e {tmp_path}/refuses ] && echo "sbatch: error: no partition" >&2 && exit 1\n'
                  f"cp $1 {tmp_path}/script\n[ -e {tmp_path}/runs ] && {job}\n"
                  "echo Submitted batch job 17",
        "srun": 'while [ "${1#--}" != "$1" ]; do\n  [ "$1" = --output ] && out=$2 && shift\n'
                "  shift\ndone\n"
                'exec "$@" >> "$(echo "$out" | sed "s/%j/17/;s/%t/0/")" 2>&1',
        "scontrol": f'echo "$@" >> {tmp_path}/asked; {job}',
        "sacct": f"echo 'JobID|State|NodeList'; echo \"17|$(cat {tmp_path}/state)|n1\""}
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr(cluster, "_REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(cluster, "_LATE_SECONDS", {"slurm": 0.1, "local": 2.0})
    cluster._kinds()["slurm"][1].watcher.clear()  # it is the same for all jobs of the process
    (tmp_path / "state").write_text("RUNNING")
    return tmp_path


def test_a_job_of_slurm(plan, slurm, capsys):
    """What it asks for, its states, and that one which the cluster ends without a word fails."""
    loaded = plan(launcher={"cluster": "slurm", "partition": "gpu", "gpus": 1, "hours": 1.5,
                            "memory": 0.5, "cpus": 3, "grace": 300})
    (slurm / "state").write_text("PENDING")

    def change():
        time.sleep(1.5)
        (slurm / "state").write_text("RUNNING")
        time.sleep(1.5)
        (slurm / "state").write_text("CANCELLED by 1000")

    thread = threading.Thread(target=change)
    thread.start()
    failed = launching.carry_out(loaded, {"one": shell("true")})
    thread.join()
    lines = (slurm / "script").read_text().splitlines()
    for asked in ("partition=gpu", "gpus-per-node=1", "time=90", "mem=512MB", "cpus-per-task=3",
                  "signal=USR2@300", "requeue", "job-name=small.one", "open-mode=append"):
        assert f"#SBATCH --{asked}" in lines, lines
    assert not any("account" in line for line in lines)
    assert " --cpus-per-task=3 " in next(line for line in lines if line.startswith("srun "))
    assert failed == {"one": "it ended without a word of its own (CANCELLED)"}
    shown = capsys.readouterr().out
    assert "1 queued, 0 running, 0 finished" in shown
    assert "0 queued, 1 running, 0 finished" in shown


def test_a_preempted_job_of_slurm_is_put_in_line_again(plan, slurm):
    (slurm / "runs").touch()
    first, done = slurm / "first", slurm / "done"
    step = shell(f"[ -e {first} ] && touch {done} && exit 0\necho $$ $PPID > {first}.tmp\n"
                 f"trap 'exit {STOPPED}' TERM\nmv {first}.tmp {first}\n"
                 "while :; do sleep 0.1; done", done)

    def preempt():
        while not first.exists():
            time.sleep(0.05)
        step, job = map(int, first.read_text().split())
        os.kill(step, signal.SIGUSR2)  # some clusters ask every process
        os.kill(job, signal.SIGTERM)  # and warn the job, which waits to be asked
        os.kill(job, signal.SIGUSR2)

    thread = threading.Thread(target=preempt)
    thread.start()
    assert launching.carry_out(plan(launcher={"cluster": "slurm"}), {"one": step}) == {}
    thread.join()
    assert (slurm / "asked").read_text() == "requeue 17\n"
    assert done.exists()


def test_a_refusal_of_the_cluster(plan, slurm, capfd):
    (slurm / "refuses").touch()
    with pytest.raises(UserError, match="the cluster refuses one: sbatch: error: no partition"):
        launching.carry_out(plan(launcher={"cluster": "slurm"}), {"one": shell("true")})
    assert not capfd.readouterr().err


def test_what_is_missing_is_said(plan, monkeypatch):
    steps = {"one": shell("true")}
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"there is no srun here; --launcher\.cluster=local"):
        launching.carry_out(plan(launcher={"cluster": "slurm"}), steps)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'varshare_jax\[cluster\]'"):
        launching.carry_out(plan(), steps)


@pytest.mark.parametrize(("text", "said"), [
    ("partitoin = 'gpu'", r"launcher: config field=partitoin: unknown; .*'partition'\?"),
    ("cluster = 'slrum'", r"launcher: --cluster=slrum: unknown; .*'slurm'\?"),
    ("gpus = 'one'", "launcher: gpus='one': must be of type int"),
    ("hours = 0", "launcher: --hours=0.0: must be greater than 0"),
    ("hours = 0.1\ngrace = 360", "launcher.grace=360: must be less than the 0.1 h"),
    ("partition = \"a\\ntouch /tmp/x\"", "launcher.partition='a.ntouch /tmp/x': must be letters"),
    ("workers = 2", "launcher.workers=2: is for a search"),
])
def test_mistakes_in_what_jobs_get(plan, text, said):
    with pytest.raises(UserError, match=said):
        plan(f"suite = 'cartpole'\nmethods = ['hard_sharing']\n[launcher]\n{text}")


def test_a_run_made_on_other_devices_is_known_again():
    config = replace(Config(), {"suite": "mt10"})
    made = replace(config, {"metaworld.physics": "mjx"})
    assert suites.settle_as(config, made) == made
    other = replace(config, {"metaworld.physics": "mujoco"})
    assert suites.settle_as(other, made) == other


def test_two_processes_may_write_one_file(tmp_path, monkeypatch):
    """The other one begins and ends while this one is about to."""
    path, put = tmp_path / "table.md", os.replace

    def meanwhile(source, target):
        subprocess.run([sys.executable, "-c", "import sys, pathlib\n"
                        "from varshare_jax.runs.files import write_text\n"
                        "write_text(pathlib.Path(sys.argv[1]), 'theirs')", str(path)], check=True)
        assert path.read_text() == "theirs"
        put(source, target)

    monkeypatch.setattr(os, "replace", meanwhile)
    write_text(path, "ours")
    assert [(each, each.read_text()) for each in tmp_path.iterdir()] == [(path, "ours")]


WORKER = """
from fake_pool import FakePool
from varshare_jax.cli.tune import main
from varshare_jax.experiments.search import tuner
tuner.Pool, FakePool.seconds = FakePool, 0.2
main()
"""
TUNE = f"""
import sys
from varshare_jax.cli.tune import main
from varshare_jax.experiments import launching
launching.argv = lambda command: (sys.executable, "-u", "-c", {WORKER!r}, *command.arguments)
main()
"""


def test_workers_share_a_search(plan):
    """The flags reach them, and so does a storage that machines may share."""
    pytest.importorskip("optuna", reason="needs varshare_jax[tune]")
    from varshare_jax.experiments.search import tuner

    text = SMALL.partition("[variants")[0].replace("launcher.hours", "launcher.workers = 2\n"
                                                   "launcher.hours")
    loaded = plan(f"seed = 1000\nmethods = ['hard_sharing', 'one_hot']\n{text}"
                  "space.ppo.learning_rate = {low = 1e-4, high = 1e-1, log = true}")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(
        [str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", TUNE, str(loaded.out.parent / "small.toml"), f"--out={loaded.out}",
         "--only=one_hot", "--trials=6", "--launcher=slurm"], env=environment,
        capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done
    assert submitted(loaded) == ["worker_1", "worker_2"]
    assert "0 queued, 0 running, 2 finished, 0 failed" in done.stdout
    assert "not every run has all of its trials yet" in done.stdout
    fewer = plan((loaded.out.parent / "small.toml").read_text(), search={"trials": 6})
    assert tuner.storage_of(fewer.out) == str(fewer.out / "study.log")
    assert not (fewer.out / "study.db").exists()
    assert tuner.so_far(fewer, only=["one_hot"]) == (True, None)
    assert tuner.so_far(fewer) == (False, None)


@pytest.mark.parametrize(("flags", "said"), [
    (("--launcher=slrum",), "--launcher=slrum: unknown; allowed: local, slurm; did you mean "
                            "'slurm'?"),
    (("--launcher.gpus=1",), "--launcher.gpus=1: only --launcher=slurm reads it"),
])
def test_mistakes_on_the_command_line(flags, said):
    done = subprocess.run([sys.executable, "-m", "varshare_jax.cli.experiment", "demo", *flags],
                          capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stderr) == (2, f"error: {said}\n")
