"""SIGINT and SIGTERM: acknowledged when they come, whatever the main thread is busy with.

Python runs handlers between its own instructions, and compiling takes minutes in which there are
none. So a thread reads from the pipe that the C handler writes to (`signal.set_wakeup_fd`).
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

STOPPED = 75
"""Exit status of a run or plan that was stopped and goes on with the same command: EX_TEMPFAIL of
sysexits.h, which job queues take for "again, later"."""
class Stopped(Exception):
    """A signal has ended a plan or a search; what it names is unfinished."""


_ASKED = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether a signal has asked for the end. `leave` ends the process where nothing is to be
    saved, and None where the process is not the run's alone."""

    def __init__(self, say: Callable[[str], None], leave: Callable[[], None] | None = None):
        self._say, self._leave = say, leave
        self._asked = threading.Event()
        self.working = False
        """Whether there is something to be saved before the end."""

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def wait(self, seconds: float) -> bool:
        """Returns after so long, or at once when a signal comes: `asked`."""
        return self._asked.wait(seconds)

    @contextlib.contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Context in which signals come here; a second one, of either kind, is not caught."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        listener = threading.Thread(target=self._listen, args=(reading,), daemon=True)
        previous = {number: signal.getsignal(number) for number in _ASKED}

        def handle(number: int, frame: Any) -> None:
            restore()
            self._asked.set()

        def restore() -> None:
            for number, handler in previous.items():
                signal.signal(number, handler)

        old = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in _ASKED:
            signal.signal(number, handle)
        listener.start()
        try:
            yield self
        finally:
            restore()
            signal.set_wakeup_fd(old)
            os.close(writing)
            listener.join()
            os.close(reading)

    def _listen(self, reading: int) -> None:
        """Tells of the first signal; a second one ends the process before the main thread does."""
        came = 0
        for number in iter(lambda: os.read(reading, 1), b""):
            if number[0] not in _ASKED:
                continue
            came += 1
            self._asked.set()
            name = signal.Signals(number[0]).name
            if came > 1 and self._leave:
                os._exit(128 + number[0])
            if self.working or not self._leave:
                self._say(f"{name}: stops after this chunk of updates; a second signal does not "
                          "wait")
            else:
                self._say(f"{name}: stops at once, there is nothing to save")
                self._leave()


def leave() -> None:
    """Ends the process at once, as one that goes on later: compiling cannot be interrupted."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(STOPPED)
