"""Searches: spaces, trials that share a program, studies that workers share and survive."""

import csv
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import PLAN, TIMEOUT, load_plan, quick_compile
from fake_pool import STEPS, FakePool, score

from varshare_jax import experiments, runner
from varshare_jax.config import replace
from varshare_jax.errors import UserError
from varshare_jax.experiments.choice import to_toml
from varshare_jax.experiments.space import Dimension
from varshare_jax.runs.monitoring import Progress
from varshare_jax.runs.signals import Stopped

optuna = pytest.importorskip("optuna")

from varshare_jax.experiments.search import tuner  # noqa: E402, which needs optuna
from varshare_jax.experiments.search.pool import Pool  # noqa: E402
from varshare_jax.experiments.search.proposals import open_storage  # noqa: E402
from varshare_jax.experiments.search.study import Study  # noqa: E402
from varshare_jax.experiments.search.workers import Worker  # noqa: E402

SMALL = PLAN + """
seed = 1000
total_steps = 112
run.final_eval_episodes = 2
search.trials = 12
search.places = 2
search.evaluations = 3
search.startup = 4
search.warmup = 1
space.ppo.learning_rate = {low = 1e-4, high = 1e-1, log = true}
"""
ONE = SMALL + "methods = ['hard_sharing']\n"


@pytest.fixture
def plan(tmp_path):
    """Loads a plan from its text, its study inside tmp_path/out."""
    def make(text: str = ONE, **options) -> experiments.Plan:
        return load_plan(tmp_path, text, **options)

    return make


@pytest.fixture
def worker(tmp_path):
    """Makes workers on this machine, and lets go of them in the end."""
    made = []

    def make() -> Worker:
        made.append(Worker(tmp_path / "workers"))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def fake(monkeypatch):
    """Searches train nothing."""
    monkeypatch.setattr(tuner, "Pool", FakePool)
    monkeypatch.setattr(FakePool, "made", 0)
    monkeypatch.setattr(FakePool, "rounds", 0)
    return FakePool


def study_of(plan: experiments.Plan, worker: Worker, storage=None) -> Study:
    return Study(plan, plan.runs[0], storage or optuna.storages.InMemoryStorage(), "here", worker)


def tell(study: Study, claim, last: int = 3) -> None:
    """Carries out a claim as FakePool would."""
    for number in range(1, last + 1):
        returns = np.full((2, 3), score(claim.values["ppo.learning_rate"], number, last))
        if study.tell(claim, number, returns, number * STEPS, diverged=None, last=number == last):
            return


@pytest.mark.parametrize(("text", "said"), [
    ("space.ppo.learning_rat = {low=1, high=2}", r"space: field=ppo.learning_rat: .*rate'\?"),
    ("space.ppo.clip = 3", "space.ppo.clip=3: must be"),
    ("space.ppo.clip = {low=0.1}", "space.ppo.clip: must have numbers low and high"),
    ("space.ppo.clip = {low=0.3, high=0.1}", "must hold low < high"),
    ("space.ppo.clip = {low=0.0, high=0.1, log=true}", "must hold 0 < low < high"),
    ("space.ppo.clip = {low=0.1, hihg=0.1}", r"key=hihg: .*'high'\?"),
    ("space.ppo.clip = {low=-0.1, high=0.1}", "--ppo.clip=-0.1: must be greater"),
    ("space.ppo.clip = {choices=[]}", "choices must be a list"),
    ("space.ppo.clip = {choices=[0.1, 0.1]}", "has a choice twice"),
    ("space.ppo.epochs = {low=1, high=4}", "space.ppo.epochs: is static, .* choices"),
    ("space.ppo.epochs = {choices=['one']}", "ppo.epochs='one': must be of type int"),
    ("space.vmpo.discount = {low=0.9, high=0.99}", "nothing of --algorithm=ppo reads it"),
    ("space.varshare.beta = {low=0.9, high=0.99}", "nothing of --method=hard_sharing reads it"),
    ("space.gradients.cagrad_c = {low=0.1, high=0.9}", "nothing of --method=hard_sharing"),
    ("space.run.devices = {choices=[1, 2]}", "space: field=run.devices: unknown"),
    ("space.total_steps = {choices=[1, 2]}", "space: field=total_steps: unknown"),
    ("space.ppo.num_envs = {choices=[2, 3]}\nspace.ppo.minibatches = {choices=[2, 5]}",
     "minibatches"),
    ("search.trails = 3", r"search: config field=trails: .*'trials'\?"),
    ("search.objective = 'best'", "search: --objective=best: .* area, final"),
    ("sweep.ppo.clip = [0.1, 0.2]", "has a sweep"),
    ("[variants.hard_sharing]\nspace.ppo.learning_rate = {low=1, high=2}",
     "variant hard_sharing: space.ppo.learning_rate: is common to all runs"),
    ("[variants.other]\nmethod = 'one_hot'\ntotal_steps = 50",
     "total_steps must be the same, not hard_sharing 112, other 50"),
])
def test_mistakes_in_a_search(plan, text, said):
    with pytest.raises(UserError, match=said):
        plan(ONE + text)


def test_effort_is_equal_and_the_seeds_are_no_results(plan):
    with pytest.raises(UserError, match="hard_sharing: its space is empty"):
        plan("methods = ['hard_sharing']\nseed = 1000\nsearch.trials = 3")
    with pytest.raises(UserError, match="seed=7: a search takes seeds from 1000"):
        plan(ONE, overrides={"seed": 7})
    loaded = plan(ONE, search={"trials": 3, "sampler": "random"})
    assert (loaded.search.trials, loaded.search.sampler) == (3, "random")
    assert loaded.search.places == 2


def test_edges_of_dimensions():
    log, linear = Dimension(1e-4, 1.0, log=True), Dimension(0.0, 10.0)
    assert [log.edge(x) for x in (1.4e-4, 1.7e-4, 0.5, 0.7)] == ["low end", "", "", "high end"]
    assert [linear.edge(x) for x in (0.4, 0.6, 9.4, 9.6)] == ["low end", "", "", "high end"]
    assert [Dimension(choices=(4, 1, 2)).edge(x) for x in (1, 2, 4)] == ["lowest", "", "highest"]
    assert Dimension(choices=("relu", "tanh")).edge("relu") == ""
    assert Dimension(choices=(1,)).edge(1) == ""


def test_chosen_settings_are_read_back_as_they_were():
    values = {"ppo.learning_rate": 1.25e-05, "ppo.epochs": 4, "network.hidden": (8, 8),
              "network.activation": "relu", "ppo.normalize_returns": False}
    found = tomllib.loads(to_toml("why", {"varshare": values}))["varshare"]
    assert found == {"ppo": {"learning_rate": 1.25e-05, "epochs": 4, "normalize_returns": False},
                     "network": {"hidden": [8, 8], "activation": "relu"}}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Two places, two seeds, seven updates and three evaluations."""
    path = tmp_path_factory.mktemp("pool") / "small.toml"
    path.write_text(ONE)
    config = experiments.load(str(path)).runs[0].config
    with quick_compile():
        yield Pool(config, 2, 3, Progress("pool", 1, 1, 1, quiet=True))


def play(pool: Pool, place: int, rate: float, neighbours=()) -> list:
    """The evaluations of a trial; each neighbour trains beside it for one of them."""
    pool.fill(place, {"ppo.learning_rate": rate})
    found, others = [], list(neighbours)
    while len(found) < pool.last:
        if others:
            pool.fill(1 - place, {"ppo.learning_rate": others.pop()})
        found.append(pool.advance()[place])
        if 1 - place in pool.busy:
            pool.leave(1 - place)
    pool.leave(place)
    return found


def test_a_trial_is_the_same_wherever_and_beside_whom_it_trains(pool):
    """Bit for bit, and nothing is compiled for any of them once the first has ended."""
    play(pool, 1, 0.3, [0.02])
    compiled: list[str] = []

    def note(name, seconds, **_):
        if "backend_compile" in name:
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        alone = play(pool, 0, 0.01)
        others = [play(pool, 1, 0.01), play(pool, 0, 0.01, [0.1, 0.001]),
                  play(pool, 1, 0.01, [0.03, 0.2, 1e-4])]
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert not compiled
    for other in others:
        for one, two in zip(alone, other, strict=True):
            assert one.returns.tobytes() == two.returns.tobytes()
    assert [at.number for at in alone] == [1, 2, 3]
    assert [at.env_steps for at in alone] == [48, 80, 112]
    different = play(pool, 0, 0.09)
    assert any((a.returns != b.returns).any() for a, b in zip(alone, different, strict=True))


def test_a_signal_ends_a_round_after_the_update_that_is_on(pool):
    """And of what was trained since the last evaluation nothing is told."""
    calls = iter([False, True])
    pool.fill(0, {"ppo.learning_rate": 0.01})
    assert pool.advance(lambda: next(calls)) == {}
    assert pool.busy[0].update == 0
    assert next(calls, None) is None  # asked before each of two updates
    pool.leave(0)


def test_a_trial_scores_what_a_run_of_its_own_does(pool, plan):
    """The episodes are the same ones, so a rounding that changes no action changes nothing."""
    rounds = play(pool, 1, 0.01)
    with quick_compile():
        alone = runner.train(replace(plan().runs[0].config, {
            "ppo.learning_rate": 0.01, "run_dir": ""}), quiet=True)
    np.testing.assert_allclose(rounds[-1].returns, alone.summary["eval"]["return"], rtol=1e-6)


def test_places_whose_tasks_are_split_over_devices(pool):
    """Three members do not divide by two devices, ten tasks do."""
    config = replace(pool.problem.config, {"suite": "cartpole10", "num_seeds": 1,
                                           "total_steps": 320})
    with quick_compile():
        three = Pool(config, 3, 2, Progress("three", 1, 1, 1, quiet=True))
        three.fill(0, {"ppo.learning_rate": 0.3})
        three.fill(2, {"ppo.learning_rate": 0.01})
        first = [three.advance()[2]]
        three.leave(0)
        three.fill(1, {"ppo.learning_rate": 0.01})
        both = three.advance()
        first.append(both[2])
        three.leave(2)
        second = [both[1], three.advance()[1]]
    for one, two in zip(first, second, strict=True):
        assert one.returns.tobytes() == two.returns.tobytes()


def test_divergence_is_seen_and_stays_in_its_place(pool):
    pool.fill(0, {"ppo.learning_rate": np.nan})
    pool.fill(1, {"ppo.learning_rate": 0.01})
    found = pool.advance()
    pool.leave(0)
    pool.leave(1)
    assert found[0].diverged in (0, 1)
    assert found[1].diverged is None


def test_every_trial_is_told_once_and_the_best_is_chosen(fake, plan, capsys):
    # A rate that the space does not hold: the first two claims, which draw, share a pool.
    loaded = plan(SMALL + "methods = ['hard_sharing', 'one_hot']\nppo.learning_rate = 0.5\n"
                  "space.network.hidden = {choices=[[8], [4]]}", search={"pruner": "none"})
    written = tuner.search(loaded)
    rows = list(csv.DictReader(written.trials.open()))
    assert [row["run"] for row in rows] == ["hard_sharing"] * 12 + ["one_hot"] * 12
    assert [int(row["trial"]) for row in rows] == [*range(12)] * 2
    assert {row["env_steps"] for row in rows} == {"300"}
    for row in rows:
        assert float(row["iqm"]) == pytest.approx(score(float(row["ppo.learning_rate"]), 3, 3))
        assert float(row["area"]) == pytest.approx(2 / 3 * float(row["iqm"]))
    best = max(rows[:12], key=lambda row: float(row["iqm"]))
    assert best["chosen"] == "1"
    assert sum(int(row["chosen"]) for row in rows) == 2
    after = written.settings.with_name("after.toml")
    after.write_text("methods = ['hard_sharing', 'one_hot']\ntuned = 'tuned.toml'\n"
                     "suite = 'cartpole'")
    config = experiments.load(str(after)).runs[0].config
    assert config.ppo.learning_rate == float(best["ppo.learning_rate"])
    assert str(config.network.hidden[0]) == best["network.hidden"].strip("(,)")
    assert written.table.read_text().count("| 12 | 0 | 0 | 7,200 |") == 2
    assert fake.made == 4  # two static choices of each run, however often they came
    assert tuner.search(loaded).trials.read_text() == written.trials.read_text()
    assert fake.made == 4
    page = written.page.read_text()
    assert page.count("<img") == 2 * (2 + 2)  # history, parallel coordinates, two slices
    assert "ppo.learning_rate" in page
    assert "2 of 2 places busy" in capsys.readouterr().out


def test_bad_trials_end_early_and_are_never_chosen(fake, plan, monkeypatch):
    monkeypatch.setattr(FakePool, "diverging", 0.05)
    written = tuner.search(plan(search={"trials": 24}), quiet=True)
    rows = list(csv.DictReader(written.trials.open()))
    ends = [row["end"] for row in rows]
    assert len(rows) == 24
    assert ends.count("pruned") > 0 < ends.count("complete")
    for row in rows:
        assert (row["end"] == "diverged") == (float(row["ppo.learning_rate"]) > 0.05)
        assert row["end"] != "pruned" or int(row["env_steps"]) < 300
        assert row["chosen"] == "0" or row["end"] == "complete"


def test_a_signal_ends_a_search_and_the_next_call_goes_on(fake, plan, monkeypatch):
    """SIGTERM in the fifth round, the second of the second pair of trials; two are lost."""
    loaded = plan(search={"pruner": "none"})
    monkeypatch.setattr(FakePool, "terminated_at", 5)
    with pytest.raises(Stopped):
        tuner.search(loaded, quiet=True)
    assert fake.rounds == 5
    assert not (loaded.out / "tuned.toml").exists()
    written = tuner.search(loaded, quiet=True)
    assert fake.rounds == 5 + 3 * 5
    rows = list(csv.DictReader(written.trials.open()))
    assert [int(row["trial"]) for row in rows] == [0, 1, *range(4, 14)]
    study = optuna.load_study(study_name="small.hard_sharing",
                              storage=f"sqlite:///{loaded.out / 'study.db'}")
    assert [trial.params for trial in study.trials[4:6]] == [
        trial.params for trial in study.trials[2:4]]


def test_a_chosen_end_of_a_range_is_said(fake, plan):
    text = ONE.replace("high = 1e-1", "high = 1.05e-3")
    written = tuner.search(plan(text), quiet=True)
    assert "hard_sharing: ppo.learning_rate" in written.table.read_text()
    for file in (written.table, written.page):
        assert "is at the high end of [0.0001, 0.00105] log" in file.read_text()


def test_the_plans_own_settings_are_tried_first_and_once(plan, worker):
    """By two workers who ask at once, and by a search that is made longer."""
    storage = optuna.storages.InMemoryStorage()
    text = (ONE + "ppo.learning_rate = 0.003\n"
            "space.network.hidden = {choices=[[4], [8]]}")
    loaded = plan(text, search={"pruner": "none"})
    one, two = (study_of(loaded, worker(), storage) for _ in range(2))
    for each in (two, one):  # the second looked before the first one wrote
        each._study.enqueue_trial({"ppo.learning_rate": 0.003, "network.hidden": "8"},
                                  {"given": True})
    claims = [one.claim(), two.claim(), one.claim()]
    assert [claim.values == {"ppo.learning_rate": 0.003, "network.hidden": (8,)}
            for claim in claims] == [True, False, False]
    for claim in claims:
        tell(one, claim)
    while claim := two.claim():
        tell(two, claim)
    longer = study_of(plan(text, search={"pruner": "none", "trials": 14}), worker(), storage)
    while claim := longer.claim():
        tell(longer, claim)
    rates = [trial.values["ppo.learning_rate"] for trial in longer.finished()]
    assert len(rates) == 14
    assert rates.count(0.003) == 1


def test_settings_outside_of_the_space_are_not_tried(plan, worker):
    study = study_of(plan(ONE + "ppo.learning_rate = 0.3"), worker())
    while claim := study.claim():
        tell(study, claim)
    assert all(trial.values["ppo.learning_rate"] <= 0.1 for trial in study.finished())


def test_proposals_depend_on_the_study_alone(plan, worker):
    """Not on restarts, nor on which worker asks."""
    loaded = plan(search={"pruner": "none"})
    steady, restarted = study_of(loaded, worker()), optuna.storages.InMemoryStorage()
    found = []
    for _ in range(8):
        here, there = steady.claim(), study_of(loaded, worker(), restarted).claim()
        found.append(here.values["ppo.learning_rate"])
        assert there.values == here.values
        tell(steady, here)
        tell(study_of(loaded, worker(), restarted), there)
    assert len(set(found)) == 8


def test_proposals_learn_from_what_was_told(plan, worker):
    """Where scores fall with the distance from 0.01, the later ones come nearer than draws do."""
    found = {}
    for sampler in ("tpe", "random"):
        study = study_of(plan(search={"trials": 30, "sampler": sampler}), worker())
        while claim := study.claim():
            tell(study, claim)
        distances = [abs(np.log10(trial.values["ppo.learning_rate"]) + 2)
                     for trial in study.finished()]
        found[sampler] = np.median(distances[15:])
    assert found["tpe"] < found["random"] / 2


@pytest.mark.parametrize("storage", ["sqlite:///{}/study.db", "{}/journal.log"])
def test_what_the_dead_have_claimed_is_claimed_again(plan, worker, tmp_path, storage):
    where = storage.format(tmp_path)
    loaded = plan(search={"trials": 4, "pruner": "none"})
    alive, dying = worker(), worker()
    first = study_of(loaded, dying, open_storage(where))
    done, lost = first.claim(), first.claim()
    tell(first, done)
    second = study_of(loaded, alive, open_storage(where))
    new = second.claim()
    assert new.values not in (done.values, lost.values)  # the other one is still there
    dying.close()
    again = second.claim()
    assert again.values == lost.values
    rest = second.claim()
    assert second.claim() is None
    for claim in (new, again, rest):
        tell(second, claim)
    assert second.complete
    rates = [trial.values["ppo.learning_rate"] for trial in second.finished()]
    assert len(set(rates)) == len(rates) == 4
    assert study_of(loaded, worker(), open_storage(where)).claim() is None


def test_a_worker_elsewhere_is_known_by_its_beat(worker, tmp_path):
    mine = worker()
    other = "elsewhere-1-abc"
    now = {f"worker {other}": time.time() - 100}
    assert mine.alive(other, now)
    assert not mine.alive(other, {f"worker {other}": now[f"worker {other}"] - 250})
    assert not mine.alive(other, {})


def test_a_study_of_other_settings_is_refused(plan, worker, tmp_path):
    storage = optuna.storages.InMemoryStorage()
    study_of(plan(), worker(), storage)
    study_of(plan(search={"trials": 99, "places": 3}), worker(), storage)
    with pytest.raises(UserError, match="was made with total_steps=112, now 99; name another"):
        study_of(plan(overrides={"total_steps": 99}), worker(), storage)
    with pytest.raises(UserError, match=r"search\.sampler=tpe, now random"):
        study_of(plan(search={"sampler": "random"}), worker(), storage)
    with pytest.raises(UserError, match=r"space\.ppo\.learning_rate"):
        study_of(plan(ONE.replace("1e-1", "2e-1")), worker(), storage)


@pytest.mark.parametrize("where", [
    "sqlite:////nowhere/at/all.db", "nosuchdb://host/name", "/nowhere/journal.log"])
def test_a_storage_that_cannot_be_reached(where, plan):
    with pytest.raises(UserError, match=f"--storage={where}: cannot be reached: "):
        tuner.search(plan(), where, quiet=True)


WORKER = """
import sys
from pathlib import Path
from fake_pool import FakePool
from varshare_jax import experiments
from varshare_jax.experiments.search import tuner
tuner.Pool = FakePool
FakePool.killed_at, FakePool.meeting = int(sys.argv[3]), Path(sys.argv[2]) / "killed"
tuner.search(experiments.load(sys.argv[1], Path(sys.argv[2]), search={"pruner": "none"}))
"""


def test_one_of_two_workers_is_killed(plan, tmp_path):
    """SIGKILL amid its second round; the other, held till then, carries out all."""
    loaded = plan()
    command = [sys.executable, "-c", WORKER, str(tmp_path / "small.toml"), str(loaded.out)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(
        [str(Path(__file__).parent), *sys.path])}
    both = [subprocess.Popen([*command, at], env=environment, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT) for at in ("2", "0")]
    said = [process.communicate(timeout=TIMEOUT)[0] for process in both]
    assert [process.returncode for process in both] == [-signal.SIGKILL, 0], said
    study = optuna.load_study(study_name="small.hard_sharing",
                              storage=f"sqlite:///{loaded.out / 'study.db'}")
    told = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    lost = [t for t in study.trials if t.state == optuna.trial.TrialState.FAIL
            and "void" not in t.user_attrs]
    assert len(told) == 12
    assert len(lost) == 2  # both of its places were busy
    rates = [trial.params["ppo.learning_rate"] for trial in told]
    assert len(set(rates)) == 12
    assert {trial.params["ppo.learning_rate"] for trial in lost} <= set(rates)
    assert (loaded.out / "tuned.toml").exists()


def test_the_command_line_says_what_is_wrong_in_one_line(tmp_path):
    (tmp_path / "plain.toml").write_text("methods = ['hard_sharing']\nsuite = 'cartpole'")
    done = subprocess.run(
        [sys.executable, "-m", "varshare_jax.cli.tune", str(tmp_path / "plain.toml")],
        capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 2
    assert done.stderr == ("error: plain: has no search: give it 'space.<field>' of what is to be "
                           "tuned\n")
