"""What every command line shares: errors as one line, exit code 2, flags from dataclasses."""

import re
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging

from varshare_jax.config import Config, Leaf, leaves, replace, with_presets
from varshare_jax.errors import UserError, unknown


def run(main: Callable[[list[str]], None]) -> None:
    """Runs an absl main; what the user can mend ends as one line and exit code 2."""
    def guarded(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # orbax tells every step of its own at INFO
        try:
            main(argv)
        except (UserError, OSError) as error:
            _fail(str(error))

    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return app.parse_flags_with_usage(argv) if _wants_help(argv) else flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        known = [name for name in flags.FLAGS if "." not in name or "." in error.flagname]
        _fail(_short_list(unknown("flag", f"--{error.flagname}", [f"--{n}" for n in known])))
    except flags.Error as error:
        _fail(_reword(str(error)))


def _wants_help(argv: list[str]) -> bool:
    return any(re.fullmatch(r"--?(help|helpfull|helpshort|helpxml|\\?)", arg) for arg in argv[1:])


def _short_list(error: UserError) -> str:
    """A flag list is too long for one line: keep the value and the nearest match."""
    return re.sub(r"allowed: .*?(?=; did you mean|$)", "see --help", str(error))


def _reword(text: str) -> str:
    """absl's "flag --x=1: Illegal value" without its line breaks."""
    return " ".join(text.split())


def _fail(text: str) -> None:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(2)


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


def define_config_flags() -> None:
    """A flag for every leaf of the config tree, named by its dotted path, and `--preset`."""
    for leaf in leaves(Config()):
        _define(leaf)
    flags.DEFINE_list("preset", [], "named bundles of settings, applied before other flags")


def _define(leaf: Leaf) -> None:
    kind, text = type(leaf.value), leaf.help
    if leaf.choices:
        text += f" ({' | '.join(leaf.choices)})"
    if kind is bool:
        flags.DEFINE_bool(leaf.name, leaf.value, text)
    elif kind is int:
        flags.DEFINE(_NumberParser(), leaf.name, leaf.value, text)
    elif kind is tuple:
        flags.DEFINE(_WidthsParser(), leaf.name, ",".join(map(str, leaf.value)), text,
                     serializer=_WidthsSerializer())
    elif kind is float:
        flags.DEFINE_float(leaf.name, leaf.value, text)
    else:
        flags.DEFINE_string(leaf.name, leaf.value, text)


def config_from_flags() -> Config:
    """The defaults, changed by the presets, changed by the flags given."""
    given = {leaf.name: flags.FLAGS[leaf.name].value for leaf in leaves(Config())
             if flags.FLAGS[leaf.name].present}
    return replace(with_presets(Config(), flags.FLAGS.preset), given).validate()
