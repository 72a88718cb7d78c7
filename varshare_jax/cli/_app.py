"""What every command line shares: errors as one line, exit code 2, flags from dataclasses."""

import difflib
import functools
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from varshare_jax.config import PRESETS, Config, with_presets
from varshare_jax.errors import UserError, printable, unknown
from varshare_jax.settings import Leaf, leaves, replace

__all__ = ["UserError", "config_from_flags", "define_config_flags", "define_leaf", "define_number",
           "named_run", "no_arguments", "positive", "run", "unknown"]


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs an absl main; what the user can mend ends as one line and exit code 2."""
    def guarded(argv: list[str]) -> int | None:
        logging.set_verbosity(logging.FATAL)  # orbax logs a traceback of what it then raises
        sys.unraisablehook = _unraisable
        try:
            return main(argv)
        except UserError as error:
            _fail(str(error))
        except OSError as error:
            _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        except KeyboardInterrupt:
            _fail("interrupted", 130)

    about = sys.modules[main.__module__].__doc__
    app.run(guarded, flags_parser=functools.partial(_parse, about=about))


def _unraisable(problem: Any) -> None:
    """When orbax raises, threads of its still report to an event loop that is gone by then."""
    if "Event loop is closed" not in str(problem.exc_value):
        sys.__unraisablehook__(problem)


def _parse(argv: list[str], about: str | None = None) -> list[str]:
    wanted = [arg for arg in argv[1:] if re.fullmatch(r"--?(help(full|short|xml)?|h|\?)", arg)]
    if wanted and not re.search("full|xml", wanted[0]):
        print(_help(about))
        sys.exit(0)
    if wanted:
        try:
            app.parse_flags_with_usage([argv[0], *wanted])
        except SystemExit:
            sys.exit(0)  # absl takes asking for help as a failure
    try:
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        _fail(_unknown_flag(error.flagname))
    except flags.Error as error:
        _fail(re.sub(r"\('(.*)', '.*'\)", r"\1", str(error)))


def _help(about: str | None) -> str:
    """What a command is for and every flag of this package.

    absl would show those of the module that was started, which of an installed script is none.
    """
    ours = flags.FlagValues()
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("varshare_jax.") or module == sys.argv[0]:
            for flag in defined:
                ours[flag.name] = flag
                ours.register_flag_by_module("flags", flag)
    listed = ours.module_help("flags").strip()
    return "\n\n".join([(about or "").strip(), listed, "--helpfull shows absl's own flags, too."])


def _unknown_flag(name: str) -> str:
    """Names the nearest flag; the section before the dot is what people leave out."""
    # Algorithms have names in common: the default one's is meant, so it comes last.
    usual = f"{Config().algorithm}."
    known = sorted(flags.FLAGS, key=lambda flag: flag.startswith(usual))
    sections = {flag.rpartition(".")[2]: flag for flag in known}
    near = difflib.get_close_matches(name, [*flags.FLAGS, *sections], n=1)
    hint = f"; did you mean '--{sections.get(near[0], near[0])}'?" if near else ""
    return f"flag --{name}: unknown; see --help{hint}"


def _fail(text: str, code: int = 2) -> NoReturn:
    print(f"error: {printable(' '.join(text.split()))}", file=sys.stderr)
    sys.exit(code)


class _NumberParser(flags.ArgumentParser):
    """Integers that may be written 5_000_000 or 5e6."""

    syntactic_help = "a whole number such as 5000, 5_000 or 5e3"

    def parse(self, argument: Any) -> int:
        try:
            number = float(argument) if isinstance(argument, str) else argument
            if int(number) == number:
                return int(argument) if str(argument).lstrip("-").isdigit() else int(number)
        except (ValueError, OverflowError):
            pass
        raise ValueError(f"must be {self.syntactic_help}")

    def flag_type(self) -> str:
        return "int"


class _WidthsParser(flags.ArgumentParser):
    """Comma-separated whole numbers."""

    syntactic_help = "whole numbers separated by commas, such as 64,64"

    def parse(self, argument: Any) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in str(argument).strip("()[] ").split(",") if part)
        except ValueError:
            raise ValueError(f"must be {self.syntactic_help}") from None

    def flag_type(self) -> str:
        return "list of int"


class _WidthsSerializer(flags.ArgumentSerializer):
    def serialize(self, value: tuple[int, ...]) -> str:
        return ",".join(map(str, value))


def no_arguments(argv: list[str]) -> None:
    """Raises UserError for anything on the command line that is no flag."""
    if len(argv) > 1:
        raise UserError(f"argument {argv[1]}: unexpected; flags are written --name=value")


def named_run() -> Path:
    """The path given as --run; raises UserError without one."""
    if not flags.FLAGS.run:
        raise UserError("--run: name the folder of a run, such as runs/my_run")
    return Path(flags.FLAGS.run)


def positive(*names: str) -> None:
    """Raises UserError for the first of these flags that is not a finite number above 0."""
    for name in names:
        value: Any = flags.FLAGS[name].value
        if not 0 < value < math.inf:
            raise UserError(f"--{name}={value}: must be greater than 0")


def define_number(name: str, default: int | None, text: str) -> None:
    """A flag for a whole number, written as people write large ones."""
    flags.DEFINE(_NumberParser(), name, default, text)


def define_config_flags() -> None:
    """A flag for every leaf of the config tree, named by its dotted path, and `--preset`."""
    for leaf in leaves(Config()):
        define_leaf(leaf)
    flags.DEFINE_list("preset", [], "named bundles of settings, applied in this order before other "
                                    f"flags ({' | '.join(PRESETS)})")


def define_leaf(leaf: Leaf) -> None:
    """A flag for a setting."""
    kind, text = type(leaf.value), leaf.help
    if leaf.choices:
        text += f" ({' | '.join(leaf.choices)})"
    if leaf.traced:
        text += " [traced]"
    if kind is bool:
        flags.DEFINE_bool(leaf.name, leaf.value, text)
    elif kind is int:
        define_number(leaf.name, leaf.value, text)
    elif kind is tuple:
        flags.DEFINE(_WidthsParser(), leaf.name, ",".join(map(str, leaf.value)), text,
                     serializer=_WidthsSerializer())
    elif kind is float:
        flags.DEFINE_float(leaf.name, leaf.value, text)
    else:
        flags.DEFINE_string(leaf.name, leaf.value, text)


def config_from_flags(resumed: Path | None = None, over: Mapping[str, Any] | None = None) -> Config:
    """The defaults, changed by `over`, by the presets and by the flags given.

    Where a run is `resumed` and no setting is given that its training depends on, all of those are
    the ones that its folder holds.
    """
    given = {leaf.name: flags.FLAGS[leaf.name].value for leaf in leaves(Config())
             if flags.FLAGS[leaf.name].present}
    base = with_presets(replace(Config(), over or {}), flags.FLAGS.preset)
    about_the_run = all(name == "run_dir" or name.startswith("run.") for name in given)
    if resumed and about_the_run and not flags.FLAGS.preset and (resumed / "config.json").exists():
        from varshare_jax.runs.folder import read_config  # imports JAX, which --help does without

        stored = read_config("--run_dir", resumed)
        # What is in a cache is executed, so a folder does not say which one to use.
        base = replace(stored, {"run.compile_cache": base.run.compile_cache})
    return replace(base, given).validate()
