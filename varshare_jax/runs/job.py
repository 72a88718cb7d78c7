"""A job of a cluster: command lines one after another, each as a process of its own.

submitit carries it out, and asks for a `checkpoint` when the cluster wants the machine back or the
job's time is over. The process then saves and ends as after any signal, and the job is put in line
again. Nothing of this imports JAX: the devices are the process's.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from varshare_jax.runs.signals import STOPPED

_POLL_SECONDS = 0.2
_REQUEUE_SECONDS = 10.0  # of the time to save that are left for being put in line again


class Step(NamedTuple):
    """A command line, and the file that it leaves when it is complete, if there is one."""

    line: tuple[str, ...]
    result: Path | None = None


class Job:
    """Steps that are not complete, up to the first that fails; `grace` are seconds to save in."""

    def __init__(self, steps: Sequence[Step], grace: float):
        self._steps, self._grace = tuple(steps), grace
        self._process: subprocess.Popen | None = None

    def __call__(self) -> int:
        """Carries out the steps; the exit status of the last one, 0 if all are complete."""
        for line, result in self._steps:
            if result and result.exists():
                continue
            self._process = _start(line)
            _ended(self._process)
            status = self._process.wait()
            if status == STOPPED:
                # The cluster has signalled to all processes: it is about to ask, or to kill.
                time.sleep(self._grace)
            if status:
                print(f"exit status {status}" if status > 0 else
                      f"killed by {signal.Signals(-status).name}", file=sys.stderr)
                return status
            if result and not result.exists():
                print(f"left no {result.name}", file=sys.stderr)
                return 1
        return 0

    def checkpoint(self) -> Any:
        """Ends the process, after it has saved if it can in time; what is left to do."""
        from submitit.helpers import DelayedSubmission

        if self._process:
            with contextlib.suppress(ChildProcessError):  # it has ended, and was waited for
                self._process.send_signal(signal.SIGTERM)
                if not _ended(self._process, max(1.0, self._grace - _REQUEUE_SECONDS)):
                    self._process.kill()
                    _ended(self._process)
        return DelayedSubmission(Job(self._steps, self._grace))


def _start(line: tuple[str, ...]) -> subprocess.Popen:
    """A process that hears neither the cluster's question, which would end it, nor a terminal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
    try:
        return subprocess.Popen(line, start_new_session=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ended(process: subprocess.Popen, seconds: float = float("inf")) -> bool:
    """Waits for the end of a process, at most so long, but leaves its status to be waited for.

    `Popen.wait` holds a lock, on which a signal's handler that waits as well would hang.
    """
    until = time.monotonic() + seconds
    while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
        if time.monotonic() > until:
            return False
        time.sleep(_POLL_SECONDS)
    return True
