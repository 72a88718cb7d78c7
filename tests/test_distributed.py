"""One run by several processes: what they tell each other, and what becomes of one that ends."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FUZZ, TIMEOUT, arrays, assert_same_run, error_line, newest, rows

from varshare_jax import config
from varshare_jax.errors import UserError
from varshare_jax.runs import links, processes
from varshare_jax.runs.checkpoint import without_key
from varshare_jax.runs.processes import Place, find, joined
from varshare_jax.runs.settings import DistributedConfig
from varshare_jax.runs.signals import STOPPED, Stopped

HOST = "127.0.0.1"
FIVE = config.Config(num_seeds=5)


@contextlib.contextmanager
def reserved() -> Iterator[int]:
    """A port that nobody is given meanwhile: it is taken, though nobody listens."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((HOST, 0))
        yield taken.getsockname()[1]


@pytest.fixture
def port() -> Iterator[int]:
    with reserved() as number:
        yield number


def flags(port: int, process: int, count: int = 2, **others) -> list[str]:
    given = {"coordinator": f"{HOST}:{port}", "process": process, "processes": count, **others}
    return [f"--distributed.{name}={value}" for name, value in given.items()]


def together(port: int, *acts: Callable[[processes.Processes], Any], timeout: int = 60,
             settings: Callable[[int], config.Config] = lambda index: FIVE) -> list[Any]:
    """What each process returns or raises, here threads of one; each act gets its `Processes`."""
    results: list[Any] = [None] * len(acts)

    def one(index: int) -> None:
        place = Place(index, len(acts), HOST, port)
        try:
            with joined(place, settings(index), timeout) as all_:
                results[index] = acts[index](all_)
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
        assert not thread.is_alive()
    return results


def told(results: list[Any]) -> list[str]:
    """The lines of processes that have all been refused."""
    assert {type(result) for result in results} == {UserError}
    return [str(result) for result in results]


WRONG = {
    "process 2 of 2": ({"process": 2}, "process=2: must be less than --distributed.processes=2"),
    "no port": ({"coordinator": "host"}, "coordinator=host: must be host:port"),
    "port 0": ({"coordinator": "host:0"}, "a port lies in"),
    "a path": ({"coordinator": "tcp://host:1"}, "must be host:port"),
    "no process": ({"process": -1}, "--distributed.process: is missing; "),
    "no processes": ({"processes": 0}, "--distributed.processes: is missing; "),
    "no coordinator": ({"coordinator": ""}, "process=1: the coordinator is missing; "),
    "auto and more": ({"coordinator": "auto"}, "process=1: the coordinator is auto; "),
    "negative": ({"process": -2}, "process=-2: must be at least -1"),
    "no time": ({"timeout": 0}, "timeout=0: must be greater than 0"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_flags_that_do_not_say_who_meets_where_are_refused(wrong):
    given = {"coordinator": f"{HOST}:4321", "process": 1, "processes": 2}
    changes, message = WRONG[wrong]
    with pytest.raises(UserError) as refused:
        find(DistributedConfig(**given | changes))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_where_a_process_stands(monkeypatch):
    assert find(DistributedConfig()) == Place()
    assert find(DistributedConfig("[::1]:80", 0, 3)) == Place(0, 3, "::1", 80)
    with pytest.raises(UserError, match="nothing here says who the processes are"):
        find(DistributedConfig("auto"))
    slurm = {"JOB_ID": "5", "STEP_NODELIST": "node[003-004]", "NTASKS": "4", "PROCID": "2",
             "LOCALID": "1"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    updated: dict[str, Any] = {}
    monkeypatch.setattr(jax.config, "update", updated.__setitem__)
    assert find(DistributedConfig("auto")) == Place(2, 4, "node003", 65535 - 2**12 + 1 + 5)
    assert updated["jax_cuda_visible_devices"] == "1"


@pytest.mark.parametrize(("members", "count"), [(4, 2), (5, 2), (5, 5), (7, 3), (1, 1)])
def test_every_member_is_trained_once(members, count):
    shares = Place(0, count).share(members)
    assert [m for share in shares for m in range(*share)] == list(range(members))
    sizes = [last - first for first, last in shares]
    assert max(sizes) - min(sizes) <= 1
    with pytest.raises(UserError, match=f"processes={members + 1}: are more than the {members}"):
        Place(0, members + 1).share(members)


def state(members: slice = slice(None)) -> dict[str, Any]:
    """Leaves [S, ...] of every kind that a state has, larger than a piece that is sent, empty."""
    keys = jax.random.split(jax.random.key(0), 5)
    numbers = np.random.default_rng(0).normal(size=(5, 3, 70_000)).astype(np.float32)
    whole = {"key": keys, "of": [numbers, np.arange(5) % 2 == 0], "none": np.zeros((5, 0, 2), bool),
             "half": np.arange(5).astype(jnp.bfloat16)}
    return jax.tree.map(lambda leaf: leaf[members], whole)


def same(one: Any, other: Any) -> bool:
    leaves = [[without_key(leaf) for leaf in jax.tree.leaves(tree)] for tree in (one, other)]
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        (a.dtype, a.shape) == (b.dtype, b.shape) and np.asarray(a).tobytes() ==
        np.asarray(b).tobytes() for a, b in zip(*leaves, strict=True))


def test_what_is_gathered_and_scattered_is_what_it_was(port, monkeypatch):
    monkeypatch.setattr(links, "_BLOCK", 2**16)

    def act(all_):
        gathered = all_.gather(state(all_.mine))
        scattered = all_.scatter(state() if all_.first else None,
                                 jax.eval_shape(lambda: state(all_.mine)))
        assert same(scattered, state(all_.mine))
        asked = [all_.any(all_.mine.start == 1), all_.any(False)]
        return gathered, asked, all_.tell({"x": [1.5, None]} if all_.first else 0), all_.devices

    first, *others = together(port, act, act, act)
    assert same(first[0], state())
    assert [other[0] for other in others] == [None, None]
    for result in (first, *others):
        assert result[1:] == ([True, False], {"x": [1.5, None]}, 3 * jax.local_device_count())


def fail(error: Exception):
    def act(all_):
        if not all_.first:
            raise error
        return all_.gather([np.zeros(2)])

    return act


def wait(all_):
    return all_.any(False)


ENDS = {
    "refused": (UserError("--x=1: no"), "process 1 has ended: --x=1: no"),
    "no disk": (OSError(28, "No space left"), "No space left"),
    "a bug": (KeyError("x"), "process 1 has ended: KeyError('x')"),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_ends_one_ends_all_and_says_why(port, end):
    error, message = ENDS[end]
    results = together(port, wait, fail(error), wait)
    assert results[1] is error
    assert isinstance(results[0], UserError)
    assert isinstance(results[2], UserError)
    assert message in str(results[0])
    assert str(results[2]) == f"process 0 has ended: {results[0]}"


def test_a_signal_to_one_is_no_failure_of_the_others(port):
    results = together(port, wait, fail(Stopped("")), wait)
    assert [type(result) for result in results] == [Stopped] * 3


@pytest.mark.parametrize("dead", [0, 1])
def test_one_that_is_gone_without_a_word_is_missed(port, dead):
    """As the system closes the connections of a process that is killed."""
    results = together(port, *[lambda all_: all_.first == (dead == 0) or wait(all_)] * 2)
    assert results[dead] is True
    assert "has ended without a word; the same commands with --resume" in str(results[1 - dead])


def test_processes_of_unlike_runs_do_not_meet(port):
    def other(name: str, value: Any) -> Callable[[int], config.Config]:
        return lambda index: config.replace(FIVE, {name: value}) if index else FIVE

    lines = told(together(port, wait, wait, settings=other("ppo.num_envs", 7)))
    assert lines[0] == "--ppo.num_envs=7: that is what process 1 was given; process 0 has 16"
    assert lines[1] == f"process 0 has ended: {lines[0]}"
    assert together(port, wait, wait, settings=other("run.devices", 1)) == [False, False]


def test_one_who_comes_twice_or_never_or_is_none_of_them(port):
    def one(place: Place, timeout: int = 60) -> str:
        try:
            with joined(place, FIVE, timeout) as all_:
                return f"{all_.any(False)}"
        except UserError as error:
            return str(error)

    def meet(*places: Place, timeout: int = 60) -> list[str]:
        lines = [""] * len(places)
        threads = [threading.Thread(target=lambda i=i, p=p: lines.__setitem__(i, one(p, timeout)))
                   for i, p in enumerate(places)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return lines

    three = [Place(index, 3, HOST, port) for index in range(3)]
    lines = meet(three[0], three[1], three[1])
    assert lines[0] == "--distributed.process=1: two processes have that number"
    assert lines[1:] == [f"process 0 has ended: {lines[0]}"] * 2
    lines = meet(Place(0, 2, HOST, port), three[1])
    assert lines[0] == ("--distributed.processes=3: that is what process 1 was given; process 0 "
                        "has 2")
    where = f"--distributed.coordinator={HOST}:{port}: "
    assert meet(three[1], timeout=1)[0].startswith(f"{where}process 0 does not answer there: ")
    lines = meet(three[0], three[1], timeout=2)
    assert lines[0] == f"{where}2 of 3 processes have come before --distributed.timeout"
    assert lines[1] in (f"process 0 has ended: {lines[0]}",
                        f"{where}process 0 is there, others are missing after 2 s")
    with socket.create_server((HOST, 0)) as server:
        taken = Place(0, 2, HOST, server.getsockname()[1])
        assert "cannot listen there: Address already in use" in one(taken)


def visit(port: int, content: bytes) -> bool:
    """Says so much to whoever listens there; whether it is sent away."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(
                (HOST, port), 30) as link:
            link.sendall(content)
            with contextlib.suppress(ConnectionResetError):
                return link.recv(1) == b""
            return True
    return False


def test_strangers_are_sent_away_and_other_addresses_are_not_listened_to(port, monkeypatch):
    monkeypatch.setattr(links, "_STRANGER_SECONDS", 0.2)
    answers: list[bool] = []

    def first():
        with joined(Place(0, 2, HOST, port), FIVE, 60) as all_:
            answers.append(all_.any(False))

    thread = threading.Thread(target=first)
    thread.start()
    for content in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\2.{", b"\0\0\0\3.{}"):
        assert visit(port, content)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), 5)
    with joined(Place(1, 2, HOST, port), FIVE, 60) as all_:
        assert all_.any(True)
    thread.join(60)
    assert answers == [True]


HOOK = """
import os, signal
from varshare_jax.runs.record import Record
def end(self, metrics, count, told=Record.training):
    told(self, metrics, count)
    if self.update == {update}:
        os.kill(os.getpid(), signal.{name})
Record.training = end
"""
# Processes of a test have their devices whatever the machine has.
CORES = "import os; os.sched_getaffinity = lambda pid: set(range(8))"


def start(cli, settings: config.Config, port: int, *arguments: str, count: int = 2,
          **before: str) -> list[Any]:
    """Starts all processes of a run; `before` by name is Python to run ahead of one, `p1`."""
    return [cli.start(settings, *arguments, *flags(port, index, count),
                      before=f"{CORES}\n{before.get(f'p{index}', '')}") for index in range(count)]


def test_two_processes_train_as_one_does_until_one_is_killed(cli, tiny, tmp_path, port):
    """Two with two devices each, beside one with four; `make fuzz` resumes what is left."""
    settings = tiny(suite="cartpole", method="hard_sharing", num_seeds=4, total_steps=3 * 16,
                    run_dir=str(tmp_path / "two"), **{"run.checkpoint_every": 2})
    started = start(cli, settings, port, p1=HOOK.format(update=3, name="SIGKILL"))
    one = config.replace(settings, {"run_dir": str(tmp_path / "one"), "run.devices": 4})
    alone = cli(one, before=CORES)
    first, killed = map(cli.end, started)
    assert (killed.returncode, killed.stdout, killed.stderr) == (-9, "", "")
    assert error_line(first) == ("process 1 has ended without a word; the same commands with "
                                 "--resume go on from the last checkpoint")
    assert (alone.returncode, alone.stderr) == (0, "")
    shutil.rmtree(tmp_path / "one" / "checkpoints" / "3")
    assert newest(tmp_path / "two") == newest(tmp_path / "one") == 2
    there, here = arrays(tmp_path / "two"), arrays(tmp_path / "one")
    assert {name: (x.dtype, x.tobytes()) for name, x in there.items()} == {
        name: (x.dtype, x.tobytes()) for name, x in here.items()}
    assert rows(tmp_path / "two") == rows(tmp_path / "one")
    assert len(rows(tmp_path / "two")) == 3
    config_of, known = ([json.loads((tmp_path / run / f"{name}.json").read_text())
                         for run in ("two", "one")] for name in ("config", "environment"))
    assert config_of[1] == config.to_dict(one)
    assert config_of[0] == config.to_dict(settings)
    assert known[0]["device"] == known[1]["device"]
    assert known[0]["device"]["count"] == 4


def test_flags_are_looked_at_before_anything_else(cli, tmp_path):
    done = cli(*flags(4321, 5), f"--run_dir={tmp_path / 'run'}")
    assert error_line(done) == ("--distributed.process=5: must be less than "
                                "--distributed.processes=2")
    assert not (tmp_path / "run").exists()


slow = pytest.mark.skipif(FUZZ == 1, reason="make fuzz")


CASES = {
    "seeds": {"num_seeds": 8, "method": "l2_soft"},
    "sweep": {"num_seeds": 2, "sweep": "varshare.beta=0.1,1"},
    "folds": {"suite": "cartpole10", "tasks": "nominal,floaty,short,twitchy",
              "leave_out": "all", "algorithm": "dqn"},
}


@slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_stopped_and_resumed_leave_what_one_leaves(cli, tiny, tmp_path, case):
    """A signal to the second stops both; both go on, or one alone with as many devices."""
    settings = tiny(**{"suite": "cartpole"} | CASES[case], total_steps=1,
                    run_dir=str(tmp_path / "two"))
    tasks = len(settings.tasks.split(","))
    settings = config.replace(settings, {"total_steps": 6 * 16 * tasks})
    with reserved() as port:
        first, second = map(cli.end, start(
            cli, settings, port, p1=HOOK.format(update=3, name="SIGTERM")))
    assert (first.returncode, first.stderr) == (second.returncode, second.stderr) == (75, "")
    assert "stopped by a signal at update 3; continue with --resume" in first.stdout
    assert second.stdout == ("process 1  SIGTERM: stops after this chunk of updates; a second "
                             "signal does not wait\n")
    resumed = config.replace(settings, {"run.devices": 4, "run_dir": str(tmp_path / "resumed")})
    shutil.copytree(tmp_path / "two", tmp_path / "resumed")
    with reserved() as port:
        both = [cli.end(process) for process in start(cli, settings, port, "--resume")]
    assert [(done.returncode, done.stderr) for done in both] == [(0, "")] * 2
    assert "resuming at update 3 of 6" in both[0].stdout
    assert both[1].stdout == ""
    one = config.replace(resumed, {"run_dir": str(tmp_path / "one")})
    for done in cli.together(((resumed, "--resume"), {"before": CORES}),
                             ((one,), {"before": CORES})):
        assert (done.returncode, done.stderr) == (0, "")
    parts = {f.name for f in (tmp_path / "one").iterdir() if "=" in f.name}
    assert len(parts) == {"seeds": 0, "sweep": 2, "folds": 4}[case]
    for part in ("", *parts):
        for run in ("two", "resumed"):
            assert_same_run(tmp_path / run / part, tmp_path / "one" / part)


@slow
def test_three_processes_share_five_members_and_end_together(cli, tiny, tmp_path):
    settings = tiny(suite="cartpole", num_seeds=5, total_steps=2 * 16,
                    run_dir=str(tmp_path / "run"), **{"run.devices": 1})
    with reserved() as port:
        full = """
from varshare_jax import runner
def no_room(path, *rest, write=runner.write_json):
    raise OSError(28, "No space left on device", str(path))
runner.write_json = no_room
"""
        failed = [cli.end(p) for p in start(cli, settings, port, count=3, p0=full)]
    assert "No space left on device" in error_line(failed[0])
    for other in failed[1:]:
        assert error_line(other).startswith("process 0 has ended: ")
        assert "No space left on device" in other.stderr
    with reserved() as port:
        done = [cli.end(p) for p in start(cli, settings, port, "--resume", count=3)]
    assert [each.returncode for each in done] == [0] * 3
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert np.array(summary["eval"]["return"]).shape == (5, 1)
    with reserved() as port:
        again = [cli.end(p) for p in start(cli, settings, port, "--resume", count=3)]
    assert [each.returncode for each in again] == [0] * 3
    assert "already finished" in again[0].stdout


@slow
def test_a_signal_while_one_compiles_ends_all_as_what_goes_on_later(cli, tiny, tmp_path):
    settings = tiny(suite="cartpole", num_seeds=2, total_steps=32, run_dir=str(tmp_path / "run"))
    signalled = """
import os, signal, time
from varshare_jax.runs.devices import Layout
def compile_for_ever(*given, **more):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(600)
Layout.compile = compile_for_ever
"""
    with reserved() as port:
        first, second = map(cli.end, start(cli, settings, port, p1=signalled))
    assert (first.returncode, second.returncode) == (STOPPED, STOPPED)
    assert first.stderr == ("warning: stopped by a signal to process 1, before there was anything "
                            "to save\n")
    assert "stops at once, there is nothing to save" in second.stdout
    assert not (tmp_path / "run" / "config.json").exists()


POD = """
import sys
from pathlib import Path
import jax, numpy as np
process, port, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process,
                           coordinator_bind_address=f"127.0.0.1:{port}")
assert (jax.process_count(), jax.process_index()) == (2, process)
from varshare_jax.runs import checkpoint
if process == 0:
    state = {"x": np.arange(3, dtype=np.int32), "key": jax.random.split(jax.random.key(0))}
    checkpoint.save(folder, 1, state, 1)
    found, update = checkpoint.restore_newest(folder, jax.eval_shape(lambda: state), print)
    assert (update, *found["x"]) == (1, 0, 1, 2)
    assert (found["key"] == state["key"]).all()
"""


@slow
def test_one_process_saves_where_jax_sees_several_as_on_a_tpu_pod(tmp_path):
    with reserved() as port:
        both = [subprocess.Popen([sys.executable, "-c", POD, str(process), str(port),
                                  str(tmp_path / "checkpoints")]) for process in range(2)]
        assert [process.wait(TIMEOUT) for process in both] == [0, 0]
