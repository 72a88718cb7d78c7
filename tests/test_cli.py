import json
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from conftest import error_line, snapshot

from varshare_jax import methods
from varshare_jax.cli import _app
from varshare_jax.config import PRESETS, Config, from_dict, leaves, to_dict
from varshare_jax.errors import UserError
from varshare_jax.settings import flatten

# Every mistake costs a process, which is why they are made here and started two at a time.
MISTAKES = {
    "suite": (["--suite=cartpole11"], "--suite=cartpole11: unknown; allowed: ", "'cartpole10'?"),
    "gymnax suite": (["--suite=gymnax:Pendulum-v2"], "--suite=gymnax:Pendulum-v2", "Pendulum-v1'?"),
    "method": (["--method=varsahre"], "--method=varsahre: unknown; ", "mean 'varshare'?"),
    "preset": (["--preset=smoke,smok"], "--preset=smok: unknown; ", "mean 'smoke'?"),
    "flag": (["--ppo.num_evns=4"], "--ppo.num_evns: unknown; ", "mean '--ppo.num_envs'?"),
    "section": (["--learning_rate=1"], "--learning_rate: unknown", "mean '--ppo.learning_rate'?"),
    "choice": (["--varshare.estimator=flip"], "--varshare.estimator=flip: unknown; allowed: ",
               "flipout, local, shared; did you mean 'flipout'?"),
    "whole number": (["--num_seeds=four"], "--num_seeds=four: must be a whole number", "5e3"),
    "division": (["--ppo.minibatches=7"], "--ppo.minibatches=7: must divide ", "16 × 128 = 2048"),
    "negative": (["--total_steps=-5"], "--total_steps=-5: must be greater than 0", ""),
    "nothing to combine": (["--method=independent", "--gradients.combine=pcgrad"],
                           "--gradients.combine=pcgrad: ", "independent has no shared parameters"),
    "two combiners": (["--method=pcgrad", "--gradients.combine=cagrad"],
                      "--gradients.combine=cagrad: ", "use --method=hard_sharing"),
    "no match": (["--method=paco", "--capacity=matched", "--network.hidden=2"],
                 "--capacity=matched: paco cannot match", "Wider layers match more finely"),
    "position": (["cartpole10"], "argument cartpole10: unexpected", "--name=value"),
    "below a file": (["--suite=cartpole", f"--run_dir={__file__}/run"], f"{__file__}/run",
                     "Not a directory"),
    "no place": (["--suite=cartpole", "--run_dir=/proc/run"], "/proc/run", "No such file"),
}
# What goes wrong before anything starts needs no process to show it.
TYPING_MISTAKES = {
    "method in a section": (["--varshare.bta=1"], "--varshare.bta", "mean '--varshare.beta'?"),
    "fraction": (["--total_steps=1.5"], "--total_steps=1.5: must be a whole number", ""),
    "number": (["--ppo.clip=much"], "--ppo.clip=much: ", "'much'"),
    "no number": (["--ppo.clip=nan"], "--ppo.clip=nan: must be a finite number", ""),
    "truth": (["--ppo.clip_value=maybe"], "--ppo.clip_value=maybe: Non-boolean argument", ""),
    "widths": (["--network.hidden=8,x"], "--network.hidden=8,x: must be whole numbers", "64,64"),
    "no layers": (["--network.hidden="], "--network.hidden", "must be positive"),
    "no value": (["--suite"], "Missing value for flag --suite", ""),
    "too much": (["--ppo.discount=1.01"], "--ppo.discount=1.01: must lie in [0, 1]", ""),
    "no bases": (["--paco.bases=0"], "--paco.bases=0: must be greater than 0", ""),
    "no modules": (["--soft_modularization.modules=0"], "soft_modularization.modules=0",
                   "must be greater than 0"),
    "uneven blocks": (["--network.torso=bronet", "--network.hidden=64,32"],
                      "--network.hidden=(64, 32)", "must be equal"),
    "fixed support": (["--network.critic=categorical", "--ppo.popart_rate=0.1"],
                      "--ppo.popart_rate=0.1", "fixed support"),
    "zero": (["--ppo.epochs=0"], "--ppo.epochs=0: must be greater than 0", ""),
}


@pytest.fixture(scope="module")
def mistakes(cli, tmp_path_factory):
    """What each of them led to, and the folder that none may make."""
    folder = tmp_path_factory.mktemp("mistakes") / "run"
    calls = [(([f"--run_dir={folder}", *given]), {}) for given, *_ in MISTAKES.values()]
    return dict(zip(MISTAKES, cli.together(*calls), strict=True)), folder


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_that_names_it(mistakes, name):
    _, *expected = MISTAKES[name]
    line = error_line(mistakes[0][name])
    assert all(part in line for part in expected), line


def test_mistakes_leave_nothing_behind(mistakes):
    assert not mistakes[1].exists()
    assert Path(__file__).is_file()


def test_help_teaches(cli):
    """Asking for help succeeds; it shows an example, the choices and every generated flag."""
    plain, without_folder = cli.together((["--help"], {}), (["--suite=cartpole"], {}))
    assert (plain.returncode, plain.stderr) == (0, "")
    assert "varshare-train --suite=cartpole10 --method=varshare" in plain.stdout
    for name in (*methods.METHODS, "cartpole10", "gymnax:<id>", "--preset", "--[no]resume"):
        assert name in plain.stdout
    told = " ".join(plain.stdout.split())
    assert f"({' | '.join(PRESETS)})" in told
    for leaf in leaves(Config()):
        _, found, after = told.partition(f"--{'[no]' * isinstance(leaf.value, bool)}{leaf.name}:")
        assert found
        marked = "[traced]" in after.partition("(default:")[0]
        assert marked == (leaf.traced or leaf.name == "sweep"), leaf.name
        assert " ".join(leaf.help.split()[:4]) in " ".join(plain.stdout.split())
    assert "--run_dir: name a folder" in error_line(without_folder)


HEAVY = {"jax", "flax", "distrax", "optax", "orbax", "gymnax", "matplotlib", "optuna"}
ASK = f"""
import runpy, sys
del sys.argv[0]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print("heavy:", *{HEAVY} & sys.modules.keys())
"""


COMMANDS = ("train", "evaluate", "experiment", "report", "prune", "render", "tune")


@pytest.mark.parametrize(("command", "flag"), [("train", "--helpfull"),
                                               *((command, "--help") for command in COMMANDS)])
def test_help_imports_no_more_than_it_shows(command, flag):
    """It comes from the settings, and these know nothing of JAX."""
    shown = subprocess.run([sys.executable, "-c", ASK, f"varshare_jax.cli.{command}", flag],
                           capture_output=True, text=True, timeout=60, check=False)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.endswith("heavy:\n")
    assert "\nflags:\n" in shown.stdout or flag == "--helpfull"


def test_reading_runs_imports_nothing_that_draws():
    """Plans read runs before they train any; only a page is drawn."""
    code = """
import sys, varshare_jax.report.runs, varshare_jax.report as r
print("matplotlib" in sys.modules, r.write_report.__name__, "matplotlib" in sys.modules)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                           timeout=60, check=False)
    assert shown.stdout == "False write_report True\n", shown.stderr


@pytest.fixture
def parse():
    """Config of a command line, through flags of its own that are gone afterwards."""
    before = set(flags.FLAGS)
    _app.define_config_flags()

    def parse(*arguments):
        flags.FLAGS.unparse_flags()
        for leaf in leaves(Config()):
            flags.FLAGS[leaf.name].unparse()
        flags.FLAGS["preset"].unparse()
        _app._parse(["program", *arguments])
        return _app.config_from_flags()

    yield parse
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


@pytest.mark.parametrize("name", TYPING_MISTAKES)
def test_a_typing_mistake_is_one_line_that_names_it(parse, capsys, name):
    arguments, *expected = TYPING_MISTAKES[name]
    with pytest.raises((SystemExit, UserError)) as caught:
        parse(*arguments)
    line = str(caught.value)
    if caught.type is SystemExit:
        assert caught.value.code == 2
        line = capsys.readouterr().err
        assert (line.count("\n"), line[:7]) == (1, "error: ")
    assert all(part in line for part in expected), line


def test_no_flags_are_the_defaults(parse):
    assert parse() == Config()


def test_presets_apply_in_order_and_flags_beat_them(parse):
    assert parse("--preset=smoke").ppo.num_envs == PRESETS["smoke"]["ppo.num_envs"]
    both = parse("--preset=smoke,large_batch")
    assert both.ppo.num_envs == PRESETS["large_batch"]["ppo.num_envs"]
    assert both.total_steps == PRESETS["smoke"]["total_steps"]
    turned = parse("--preset=large_batch,smoke")
    assert turned.ppo.num_envs == PRESETS["smoke"]["ppo.num_envs"]
    default = Config().ppo.num_envs  # a flag wins even where it repeats the default
    flagged = parse(f"--ppo.num_envs={default}", "--preset=smoke", "--total_steps=640")
    assert (flagged.ppo.num_envs, flagged.total_steps) == (default, 640)


def whole(name: str) -> dict:
    """A preset's settings, and those of the presets that it comes after."""
    earlier = [whole(other) for other in PRESETS[name].get("after", ())]
    settings = {field: value for each in (*earlier, PRESETS[name]) for field, value in each.items()}
    return {field: value for field, value in settings.items() if field != "after"}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_all_of_it_applies(parse, name):
    settings = dict(flatten(to_dict(parse(f"--preset={name}"))))
    for field, value in whole(name).items():
        assert settings[field] == value


@pytest.mark.parametrize("text", ["5_000_000", "5e6", "5000000", "5.0e6"])
def test_numbers_as_people_write_them(parse, text):
    steps = parse(f"--total_steps={text}").total_steps
    assert (steps, type(steps)) == (5_000_000, int)


def test_every_kind_of_flag(parse):
    settings = parse("--network.hidden=32,16", "--noppo.clip_value", "--ppo.discount=1",
                     "--suite", "cartpole", "--run.tensorboard=false")
    assert settings.network.hidden == (32, 16)
    assert not settings.ppo.clip_value
    assert not settings.run.tensorboard
    assert settings.ppo.discount == 1.0
    assert settings.suite == "cartpole"


def test_config_round_trips_through_json(parse):
    settings = parse("--preset=continuous", "--network.hidden=7", "--run_dir=x", "--seed=3",
                     "--varshare.beta=0.1", "--noppo.normalize_returns")
    assert settings != Config()
    assert from_dict(json.loads(json.dumps(to_dict(settings)))) == settings


def test_states_of_a_folder_that_are_refused(cli, interrupted, finished):
    """One error line each, and not a byte of the folder changes."""
    done, half = finished("varshare"), interrupted("varshare")
    before = snapshot(done.folder), snapshot(half.folder)
    again, unfinished, other, other_half = cli.together(
        ([done.settings], {}), ([half.settings], {}),
        ([done.settings, "--varshare.beta=0.5", "--resume"], {}),
        ([half.settings, "--network.hidden=8,8"], {}))
    assert "holds a finished run of these settings; add --resume" in error_line(again)
    assert "holds an unfinished run of these settings; add --resume" in error_line(unfinished)
    assert "holds a run with --varshare.beta=1.0, now 0.5" in error_line(other)
    assert "holds a run with --network.hidden=8, now 8,8" in error_line(other_half)
    assert (snapshot(done.folder), snapshot(half.folder)) == before


def test_resuming_a_finished_run_says_so_and_writes_nothing(cli, finished):
    run = finished("varshare")
    before = snapshot(run.folder)
    done = cli(run.settings, "--resume")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"already finished; see {run.folder / 'summary.json'}" in done.stdout
    assert snapshot(run.folder) == before


def test_config_json_is_the_config(finished):
    run = finished("varshare")
    assert from_dict(json.loads((run.folder / "config.json").read_text())) == run.settings


def test_the_summary_has_everything_that_a_comparison_needs(finished):
    run = finished("varshare")
    summary = json.loads((run.folder / "summary.json").read_text())
    settings, seeds, tasks = run.settings, run.settings.num_seeds, 10
    for name in ("suite", "method", "num_seeds", "total_steps"):
        assert summary[name] == getattr(settings, name)
    per_update = tasks * settings.ppo.num_envs * settings.ppo.rollout_length
    assert summary["env_steps"] == summary["updates"] * per_update
    assert 0 <= summary["env_steps"] - settings.total_steps < per_update
    last = json.loads((run.folder / "train.jsonl").read_text().splitlines()[-1])
    assert (last["update"], last["env_steps"]) == (summary["updates"], summary["env_steps"])
    assert summary["wall_seconds"] >= last["wall_seconds"] > 0
    assert summary["compile_seconds"] > 0
    assert summary["steps_per_second"] == pytest.approx(
        summary["env_steps"] * seeds / summary["wall_seconds"])
    assert 0 < summary["parameters"]["active"] < summary["parameters"]["stored"]
    assert [len(row) for row in summary["eval"]["return"]] == [tasks] * seeds
    assert all(isinstance(value, float) for row in summary["eval"]["return"] for value in row)
    assert len(summary["task_names"]) == tasks
    assert summary["diverged"] == []
    assert {"python", "varshare_jax", "jax", "jaxlib", "flax"} <= summary["versions"].keys()
    assert {"platform", "kind", "count"} <= summary["device"].keys()
    evaluation = json.loads((run.folder / "eval.jsonl").read_text().splitlines()[-1])
    assert evaluation["return"] == summary["eval"]["return"]


def test_an_installed_script_shows_its_own_flags():
    """absl shows those of the module that was started, and a script is no module of ours."""
    script = "from varshare_jax.cli.experiment import main; main()"
    shown = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True,
                           timeout=120, check=True).stdout
    assert "varshare-experiment demo" in shown
    assert "--only: the runs to make" in shown
    assert "chex" not in shown
