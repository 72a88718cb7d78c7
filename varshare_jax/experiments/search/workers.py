"""Who carries out trials, and whether they are still there.

On one machine a lock tells, which the system drops when its process ends, whatever ended it. From
elsewhere a time does that every worker keeps writing into the study.
"""

import contextlib
import fcntl
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from varshare_jax.runs.monitoring import repeating

_BEAT_SECONDS, _SILENT_SECONDS = 20.0, 300.0


class Worker:
    """This process among those that work on a study; `folder` holds the locks of its machine."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._path(self.name).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Lets others have what this worker has left."""
        self._path(self.name).unlink(missing_ok=True)
        self._lock.close()

    @contextlib.contextmanager
    def beating(self, write: Callable[[str, float], None]) -> Iterator[None]:
        """Writes the time under this worker's key, again and again, and 0 when it leaves."""
        def beat(at: float):
            with contextlib.suppress(Exception):  # a storage that is gone fails the main thread
                write(_key(self.name), at)

        write(_key(self.name), time.time())
        try:
            with repeating(_BEAT_SECONDS, lambda: beat(time.time())):
                yield
        finally:
            beat(0.0)

    def alive(self, name: str, attributes: Mapping[str, Any]) -> bool:
        """Whether a worker is, by its lock, or by what it last wrote into a study."""
        if name == self.name:
            return True
        if name.startswith(f"{socket.gethostname()}-") and self._path(name).exists():
            return self._locked(name)
        return time.time() - attributes.get(_key(name), 0.0) < _SILENT_SECONDS

    def _locked(self, name: str) -> bool:
        try:
            with self._path(name).open("r") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"


def _key(name: str) -> str:
    """Where a study keeps a worker's time."""
    return f"worker {name}"
