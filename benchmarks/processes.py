"""A measuring process, and what it answers."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Compiling is most of the time of a test. A CPU's fusion emitters make programs a sixth faster,
# and cost half of compiling what is not optimised else. Since 0.11 there is nothing else, and XLA
# dies of a flag that it does not know.
# On a busy machine devices wait for each other longer than XLA's patience of 40 s.
_FLAGS = ("--xla_cpu_parallel_codegen_split_count=1",
          "--xla_cpu_collective_call_terminate_timeout_seconds=240", *(
    ("--xla_cpu_use_fusion_emitters=false",)
    if importlib.metadata.version("jaxlib").startswith("0.10.") else ()))
QUICK = MappingProxyType({"JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                          "XLA_FLAGS": " ".join((os.environ.get("XLA_FLAGS", ""), *_FLAGS))})


class Failed(Exception):
    """Why there is no answer, in a line; what the process printed is `printed`."""

    def __init__(self, why: str, printed: str = "") -> None:
        super().__init__(why)
        self.printed = printed


def ask(module: str, spec: Mapping[str, Any], *, timeout: float, python: str = sys.executable,
        environment: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """The JSON in the last line that `python -m module '<spec as JSON>'` prints.

    Raises Failed if the process dies, takes more than `timeout` seconds or prints something else.
    """
    try:
        done = subprocess.run([python, "-m", module, json.dumps(spec)], cwd=ROOT, text=True,
                              env=os.environ | environment, capture_output=True,
                              timeout=timeout, check=True)
        return json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise Failed(f"took more than {timeout:.0f} s") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:]
        raise Failed(*last or [f"ended with {error.returncode}"], printed=error.stderr) from None
    except (OSError, ValueError, IndexError) as error:
        raise Failed(repr(error)) from None


def ask_or_tell(name: str, module: str, spec: Mapping[str, Any],
                **options: Any) -> dict[str, Any] | None:
    """The answer that `ask` gets; None, and the reason on the error stream, where there is none."""
    try:
        return ask(module, spec, **options)
    except Failed as failed:
        print(f"{name}: {failed}\n{failed.printed}", file=sys.stderr)
        return None


def write_report(path: str, report: Mapping[str, Any]) -> None:
    """Writes a JSON file, '' for none."""
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(report, indent=1) + "\n")
