"""Plans as data, what becomes of their runs, and sweeps that are one program."""

import csv
import dataclasses
import functools
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import PLAN, arrays, load_plan, quick_compile, rows, snapshot

from varshare_jax import experiments, runner
from varshare_jax.config import Config, replace
from varshare_jax.errors import UserError
from varshare_jax.experiments import choice, execution, forecast
from varshare_jax.experiments.plan import PLANS
from varshare_jax.playing.scoring import evaluate_run
from varshare_jax.report.runs import load_runs
from varshare_jax.runs.record import Record

SMALL = PLAN + """
total_steps = 60
run.log_every = 1
run.eval_every = 2
run.final_eval_episodes = 1
run.tensorboard = false
"""


@pytest.fixture
def plan(tmp_path):
    """Loads a plan from its text, its runs inside tmp_path/out."""
    return functools.partial(load_plan, tmp_path)


class Trainer:
    """Launches trainings in this process; those whose names are in `failing` end with 3."""

    def __init__(self, plan: experiments.Plan, failing: tuple[str, ...] = ()):
        self.configs = {run.name: run.config for run in plan.runs}
        self.failing, self.launched = failing, []

    def __call__(self, command: execution.Command, hear) -> int:
        self.launched.append(command.title)
        hear("the last words")
        if command.title in self.failing:
            return 3
        with quick_compile():
            runner.train(self.configs[command.title], resume=True, quiet=True)
        return 0


@pytest.mark.parametrize("name", experiments.names())
def test_the_plans_of_the_package_load(name):
    plan = experiments.load(name)
    experiments.check(plan)
    assert plan.title
    assert plan.out == Path("runs") / name


def test_tuning_and_evaluation_share_methods_but_no_seeds():
    import tomllib

    tune, final = (tomllib.loads((PLANS / f"{name}.toml").read_text())
                   for name in ("tune_cartpole10", "stage3_baselines_cartpole10"))
    assert tune["methods"] == final["methods"]
    seeds = [set(range(tree.get("seed", 0), tree.get("seed", 0) + tree["num_seeds"]))
             for tree in (tune, final)]
    assert not seeds[0] & seeds[1]
    assert len(final["methods"]) >= 10 <= final["num_seeds"]


def test_settings_come_in_layers(plan, tmp_path):
    (tmp_path / "tuned.toml").write_text("[l2_soft]\nppo.learning_rate = 0.5\nl2_soft.penalty=7.0")
    loaded = plan("""
        title = "Layers"
        methods = ["varshare", "l2_soft"]
        tuned = "tuned.toml"
        presets = ["large_batch"]
        suite = "cartpole"
        total_steps = 100
        ppo.learning_rate = 0.25
        [variants.l2_soft]
        l2_soft.penalty = 8
        [variants.short]
        method = "independent"
        presets = ["smoke"]
    """, overrides={"num_seeds": 5})
    varshare, l2_soft, short = loaded.runs
    assert [run.name for run in loaded.runs] == ["varshare", "l2_soft", "short"]
    assert (varshare.config.ppo.num_envs, short.config.ppo.num_envs) == (64, 4)
    assert varshare.config.ppo.learning_rate == 0.25
    assert l2_soft.config.ppo.learning_rate == 0.5
    assert l2_soft.config.l2_soft.penalty == 8
    assert short.config.method == "independent"
    assert short.presets == ("large_batch", "smoke")
    assert short.config.total_steps == 100  # the plan's own word counts more than a preset's
    assert {run.config.num_seeds for run in loaded.runs} == {5}
    assert short.folder == tmp_path / "out" / "short"


def test_a_plan_with_cases_has_every_variant_in_each(plan, tmp_path):
    (tmp_path / "tuned.toml").write_text("[slow]\nppo.learning_rate = 0.5")
    (tmp_path / "few.toml").write_text("[slow]\nppo.learning_rate = 0.2\nppo.epochs = 3")
    text = """
        tuned = "tuned.toml"
        methods = ["varshare"]
        total_steps = 100
        [variants.slow]
        method = "l2_soft"
        ppo.clip = 0.3
        [cases.few]
        tuned = "few.toml"
        suite = "cartpole"
        ppo.clip = 0.1
        [cases.many]
        suite = "cartpole10"
        total_steps = 200
    """
    runs = {run.name: run for run in plan(text).runs}
    assert list(runs) == ["few/varshare", "few/slow", "many/varshare", "many/slow"]
    assert runs["many/slow"].folder == tmp_path / "out" / "many" / "slow"
    config = {name: run.config for name, run in runs.items()}
    assert [config[name].suite for name in runs] == 2 * ["cartpole"] + 2 * ["cartpole10"]
    assert [config[name].total_steps for name in runs] == [100, 100, 200, 200]
    assert [config[name].ppo.clip for name in runs] == [0.1, 0.3, Config().ppo.clip, 0.3]
    assert [config[name].ppo.learning_rate for name in ("few/slow", "many/slow")] == [0.2, 0.5]
    assert [config[name].ppo.epochs for name in runs] == [Config().ppo.epochs, 3] + 2 * [
        Config().ppo.epochs]  # a case's file stands in the place of the plan's
    for only, names in ((["slow"], ["few/slow", "many/slow"]),
                        (["many"], ["many/varshare", "many/slow"]),
                        (["few", "slow"], ["few/slow"])):
        assert [run.name for run in plan(text, only=only).runs] == names


def test_what_a_plan_found_no_tuned_settings_for_is_told(plan, tmp_path):
    (tmp_path / "tuned.toml").write_text("[l2_soft]\nppo.learning_rate = 0.5")
    loaded = plan("""
        tuned = "tuned.toml"
        methods = ["l2_soft", "varshare"]
        suite = "cartpole"
    """)
    table = forecast.Forecast(loaded).table(loaded)
    assert ", tuned ppo.learning_rate=0.5" in table
    assert table.count(", tuned in nothing") == 1


def test_an_engine_that_cannot_play_is_told_before_training(plan):
    elsewhere = plan("suite = 'gymnax:Pendulum-v1'\nmethods = ['independent']\n"
                     "[evaluations.elsewhere]\nengine = 'gymnasium'")
    with pytest.raises(UserError, match=r"variant independent: .* has no counterpart in Gymnasium"):
        experiments.check(elsewhere)


@pytest.mark.parametrize(("text", "said"), [
    ("methods = [", "small.toml: not TOML"),
    ("title = 'nothing'", "names no run"),
    ("sute = 'cartpole'\nmethods = ['varshare']", "key=sute: unknown; .* 'suite'?"),
    ("methods = ['varshare']\nppo.num_evns = 3", "key=ppo.num_evns: .* 'ppo.num_envs'?"),
    ("methods = ['varshare']\nbeta = 3", "key=beta: unknown; did you mean 'varshare.beta'"),
    ("methods = ['varshare']\nzzz = 3", "key=zzz: unknown; the nearest of .*: [^,]+(, [^,]+){2}$"),
    ("methods = 'varshare'", "methods='varshare': must be a list"),
    ("methods = ['varshare']\ntotal_steps = 'many'", "variant varshare: total_steps='many'"),
    ("[variants.a]\nmetod = 'varshare'", "variant a: key=metod: .* 'method'?"),
    ("[variants.a]\nppo.clip = 0.1", "variant a: names no method"),
    ("variants.a = 3", "variants.a=3: must be a table"),
    ("methods = ['varshare']\ncases.a = 3", "cases.a=3: must be a table"),
    ("methods = ['varshare']\ncases.a.tuned = 'none.toml'", "tuned=none.toml: there is no file"),
    ("methods = ['varshare']\ncases.a.sute = 'cartpole'", "case a: key=sute: .* 'suite'?"),
    ("methods = ['varshare']\npresets = ['smok']", "--preset=smok: .* 'smoke'?"),
    ("methods = ['varshare']\nsweep.ppo.epochs = [1, 2]", "ppo.epochs=…: is not traced"),
    ("methods = ['varshare']\nsweep.ppo.clip = 0.1", "sweep.ppo.clip=0.1: must be a list"),
    ("methods = ['varshare']\nsweep.ppo.clip = ['a']", "--sweep=ppo.clip=a: must be"),
    ("methods = ['varshare']\nsweep.ppo.clip = [0.1, 0.1]", "'ppo.clip' has a value twice"),
    ("methods = ['varshare']\nsweep.ppo.clip = [0.1, -0.1]", "--ppo.clip=-0.1: must be greater"),
    ("methods = ['varshare']\ntuned = 'none.toml'", "tuned=none.toml: there is no file"),
    ("tuning = true\nmethods = ['varshare', 'l2_soft']\n[variants.l2_soft]\n"
     "sweep.l2_soft.penalty = [1, 2]", "as many configurations .*varshare 1, l2_soft 2"),
    ("seeds_apart = true\nmethods = ['varshare']\nsweep.ppo.clip = [0.1, 0.2]",
     "seeds_apart=true: not for a plan with a sweep"),
])
def test_mistakes_in_a_plan(plan, text, said):
    with pytest.raises(UserError, match=said):
        plan(text)


def test_names_that_do_not_exist(plan):
    with pytest.raises(UserError, match=r"experiment=demmo: unknown; .*'demo'\?"):
        experiments.load("demmo")
    with pytest.raises(UserError, match=r"experiment nowhere\.toml"):
        experiments.load("nowhere.toml")
    with pytest.raises(UserError, match=r"--only=varshar: .*'varshare'\?"):
        plan("methods = ['varshare']", only=["varshar"])
    with pytest.raises(UserError, match=r"variant a: --method=varsahre: .*'varshare'\?"):
        experiments.check(plan("[variants.a]\nmethod = 'varsahre'"))


def test_finished_runs_are_skipped_and_a_failing_one_stops_no_other(plan, capsys, tmp_path):
    loaded = plan(SMALL + "methods = ['independent', 'hard_sharing', 'l2_soft']")
    trainer = Trainer(loaded, failing=("hard_sharing",))
    outcome = experiments.conduct(loaded, trainer)
    assert trainer.launched == ["independent", "hard_sharing", "l2_soft"]
    assert [(c.title, why) for c, why in outcome.failures] == [("hard_sharing", "the last words")]
    assert "--method=hard_sharing" in str(outcome.failures[0][0])
    assert (tmp_path / "out" / "report.html").exists()
    before = snapshot(tmp_path / "out" / "l2_soft")
    capsys.readouterr()
    again = Trainer(loaded)
    assert not experiments.conduct(loaded, again).failures
    assert again.launched == ["hard_sharing"]
    assert snapshot(tmp_path / "out" / "l2_soft") == before
    shown = capsys.readouterr().out
    assert "[run 1 of 3]  independent: finished already" in shown
    assert "[run 2 of 3, " in shown
    other = dataclasses.replace(loaded, runs=tuple(dataclasses.replace(
        run, config=replace(run.config, {"total_steps": 99})) for run in loaded.runs))
    with pytest.raises(UserError, match="--total_steps=60, now 99"):
        experiments.check(other)


def test_an_adaptation_ends_with_the_last_file_that_it_leaves(plan, tmp_path):
    """A kill between its summary and its zero-shot scores leaves it unfinished."""
    for regime, last in (("", "zero_shot.json"), ("regime = 'scratch'", "summary.json")):
        loaded = plan("methods = ['varshare']\nsuite = 'cartpole10'\nleave_out = 'all'\n"
                      f"[adaptation]\ntotal_steps = 100\n{regime}")
        *_, command = execution.commands(loaded, loaded.runs[0])
        assert command.result == tmp_path / "out" / "varshare_adapted" / last


def test_seeds_apart_are_trained_in_turns_and_reported_as_one_run(plan, tmp_path):
    text = SMALL + "seed = 3\nseeds_apart = true\nmethods = ['hard_sharing', 'l2_soft']"
    loaded = plan(text, overrides={"run.eval_every": 1})
    parts = [f"{method}/seed_{seed}" for seed in (3, 4) for method in ("hard_sharing", "l2_soft")]
    assert [run.name for run in loaded.runs] == parts
    assert [run.config.seed for run in loaded.runs] == [3, 3, 4, 4]
    assert {run.config.num_seeds for run in loaded.runs} == {1}
    trainer = Trainer(loaded)
    assert not experiments.conduct(loaded, trainer).failures
    assert trainer.launched == parts
    scores = list(csv.DictReader((tmp_path / "out" / "report.csv").open()))
    assert [(row["method"], row["seed"]) for row in scores] == [
        ("hard_sharing", "3"), ("hard_sharing", "4"), ("l2_soft", "3"), ("l2_soft", "4")]


def test_a_signal_reaches_the_process_and_the_next_call_goes_on(plan, monkeypatch, capfd):
    """SIGTERM to the experiment as soon as training has begun, twice."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    loaded = plan(SMALL + "methods = ['independent']", overrides={
        "total_steps": 10**7, "run.eval_every": 10**6})
    heard = []

    def launch(command, hear):
        def listen(line):
            heard.append(line)
            if "steps/s" in line:
                os.kill(os.getpid(), signal.SIGTERM)

        return execution.run_process(command, listen)

    folder = loaded.runs[0].folder
    assert experiments.conduct(loaded, launch).stopped
    stopped_at = rows(folder)[-1]["update"]
    assert "the same command goes on" in capfd.readouterr().out
    assert experiments.conduct(loaded, launch).stopped
    assert any(f"resuming at update {stopped_at} of " in line for line in heard)
    assert rows(folder)[-1]["update"] > stopped_at > 0
    assert not loaded.runs[0].finished


def test_the_forecast_takes_the_best_that_is_known(plan, tmp_path):
    loaded = plan("methods = ['varshare', 'l2_soft']\nsuite = 'cartpole'\nnum_seeds = 2\n"
                  "total_steps = 1000\nsweep.ppo.clip = [0.1, 0.2]")
    varshare, l2_soft = loaded.runs

    def expected(run):
        return forecast.Forecast(loaded).seconds(run) - forecast.STARTUP_SECONDS

    assert expected(varshare) == pytest.approx(4000 / forecast.GUESSES[""])
    assert "a guess" in forecast.Forecast(loaded).table(loaded)
    other = tmp_path / "out" / "older"
    other.mkdir(parents=True)
    (other / "summary.json").write_text(json.dumps(
        {"suite": "cartpole", "method": "varshare", "steps_per_second": 40.0}))
    assert expected(varshare) == expected(l2_soft) == pytest.approx(100)
    l2_soft.folder.mkdir()
    (l2_soft.folder / "train.jsonl").write_text(json.dumps(
        {"env_steps": 600, "steps_per_second": 80.0}) + "\n")
    assert expected(l2_soft) == pytest.approx(400 * 4 / 80)
    varshare.folder.mkdir()
    (varshare.folder / "summary.json").write_text((other / "summary.json").read_text())
    assert forecast.Forecast(loaded).seconds(varshare) == 0
    assert forecast.clock(3723.4) == "1:02:03"


def test_where_no_run_is_known_the_forecast_guesses_by_the_suites_physics(plan):
    def speed(suite):
        loaded = plan(f"methods = ['varshare']\nsuite = '{suite}'\ntotal_steps = 1000")
        return forecast.Forecast(loaded).speed(loaded.runs[0])[0]

    assert speed("mt1:reach") < speed("lunar_lander20") < speed("cartpole10")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of two learning rates × two λ, two seeds each, and its configurations."""
    out = tmp_path_factory.mktemp("swept")
    plan = load_plan(out, SMALL + """
        seed = 7
        tuning = true
        methods = ["l2_soft"]
        sweep.ppo.learning_rate = [1e-3, 1e-2]
        sweep.l2_soft.penalty = [1e-3, 0.5]
    """)
    assert not experiments.conduct(plan, Trainer(plan)).failures
    return plan


def test_a_sweep_equals_separate_runs(swept, tmp_path):
    whole = swept.runs[0].config
    assert [member.seed for member in whole.members()] == [7, 8] * 4
    parts = whole.configurations()
    assert [(p.ppo.learning_rate, p.l2_soft.penalty) for p in parts] == [
        (1e-3, 1e-3), (1e-3, 0.5), (1e-2, 1e-3), (1e-2, 0.5)]
    part = parts[2]
    alone = replace(part, {"run_dir": str(tmp_path / "alone")})
    with quick_compile():
        runner.train(alone, quiet=True)
    here, there = arrays(Path(part.run_dir)), arrays(tmp_path / "alone")
    assert here.keys() == there.keys()
    for name in here:
        np.testing.assert_allclose(here[name], there[name], rtol=1e-3, atol=1e-5, err_msg=name)
    for name in ("train", "eval"):
        for one, other in zip(rows(Path(part.run_dir), name), rows(tmp_path / "alone", name),
                              strict=True):
            flat = [np.float64(list(r.get("metrics", {"return": r.get("return")}).values()))
                    for r in (one, other)]
            np.testing.assert_allclose(*flat, rtol=1e-3, atol=1e-4)
    others = arrays(Path(parts[1].run_dir))
    assert any(not np.allclose(here[name], others[name]) for name in here)


def test_configurations_of_a_sweep_are_runs_of_their_own(swept):
    whole = swept.runs[0].config
    part = whole.configurations()[1]
    with quick_compile():
        assert runner.train(part, resume=True, quiet=True).summary["num_seeds"] == 2
        assert len(evaluate_run(Path(part.run_dir), episodes=1)["return"]) == 2
        assert len(evaluate_run(swept.runs[0].folder, episodes=1)["return"]) == 8
    loaded = load_runs([swept.runs[0].folder])
    assert sorted(str(run.path) for run in loaded) == sorted(
        c.run_dir for c in whole.configurations())


def test_tuning_chooses_by_its_rule(swept):
    trials = [choice.Trial({"ppo.clip": float(i)}, iqm, area) for i, (iqm, area) in enumerate(
        [(499.9, 1.0), (500.0, 2.0), (500.0, 3.0), (498.0, 9.0), (-np.inf, -np.inf)])]
    assert choice.choose(trials) is trials[2]
    assert choice.choose(trials[:1] + trials[3:]) is trials[0]
    table = (swept.out / "tuning.md").read_text()
    assert table.count("| l2_soft | ") == 4
    assert table.count("| yes |") == 1
    chosen = experiments.load(_after(swept)).runs[0]
    assert chosen.tuned.keys() == {"ppo.learning_rate", "l2_soft.penalty"}
    assert chosen.config.l2_soft.penalty in (1e-3, 0.5)
    assert not chosen.config.sweep


def _after(swept: experiments.Plan) -> str:
    """A plan that reads what tuning wrote."""
    path = swept.out / "after.toml"
    path.write_text('methods = ["l2_soft"]\ntuned = "tuned.toml"\nsuite = "cartpole"')
    return str(path)


def test_a_diverged_seed_stays_with_its_configuration(swept, tmp_path, monkeypatch):
    """Member 5 of 8 is seed 1 of the third configuration."""
    whole = replace(swept.runs[0].config, {"run_dir": str(tmp_path / "run")})
    note = Record._note_divergence
    monkeypatch.setattr(Record, "_note_divergence", lambda self, loss: note(
        self, np.where(np.arange(8)[:, None, None] == 5, np.nan, loss)))
    with quick_compile():
        runner.train(whole, quiet=True)
    found = [json.loads((Path(part.run_dir) / "summary.json").read_text())
             for part in whole.configurations()]
    assert [len(summary["diverged"]) for summary in found] == [0, 0, 1, 0]
    assert found[2]["diverged"][0] | {"task": ""} == {
        "member": 1, "seed": 8, "task": "", "update": 0}
    assert found[2]["eval"]["return"][1] == [None]
    assert None not in found[2]["eval"]["return"][0]


def test_sweep_flags_mean_what_plans_mean():
    config = Config(sweep="varshare.beta=0.1,1", run_dir="x")
    assert [c.run_dir for c in config.configurations()] == ["x/beta=0.1", "x/beta=1"]
    assert Config(run_dir="x").configurations() == (Config(run_dir="x"),)
