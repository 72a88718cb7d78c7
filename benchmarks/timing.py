"""What every measuring process shares; imports neither varshare_jax nor a peer."""

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from typing import Any


def seconds_per_call(call: Callable[[], Any], window: float) -> tuple[float, int]:
    """(mean seconds, calls) of blocking calls repeated for at least `window` seconds."""
    calls, started = 0, time.perf_counter()
    while True:
        call()
        calls += 1
        if (elapsed := time.perf_counter() - started) >= window:
            return elapsed / calls, calls


def compile_timed(compile: Callable[[], Any]) -> tuple[Any, float]:
    """What `compile` returns and the seconds it took."""
    started = time.perf_counter()
    return compile(), time.perf_counter() - started


def versions(*packages: str) -> dict[str, str]:
    """Installed versions."""
    return {package: importlib.metadata.version(package) for package in packages}


def answer(kinds: dict[str, Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
    """Measures what the JSON in argv[1] asks for and prints one JSON line, the last of stdout."""
    spec = json.loads(sys.argv[1])
    print(json.dumps(kinds[spec["kind"]](spec)), flush=True)
