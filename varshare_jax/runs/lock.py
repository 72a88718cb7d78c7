"""One writer per run folder: a lock of the operating system, which dies with its process."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from varshare_jax.errors import UserError
from varshare_jax.runs.monitoring import warn

NAME = "run.lock"
"""The file that is locked. What stands in it tells people who holds it, and decides nothing."""


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Context in which no other process that asks for the same gets past this line.

    Raises UserError saying who writes to the folder and since when. The file stays: were it
    removed, two processes could hold locks on two files of one name.
    """
    with (folder / NAME).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"--run_dir={folder}: {_told(file.read())}; one run at a time writes "
                            "to a folder") from None
        except OSError as error:  # some network file systems have none
            warn(f"{folder}: its file system has no locks ({error.strerror}); see to it that no "
                 "other process writes there")
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(),
                               "since": time.strftime("%Y-%m-%d %H:%M:%S")}) + "\n")
        file.flush()
        yield


def _told(text: str) -> str:
    """Who holds the lock, as far as it is known: it may be about to write its name."""
    try:
        holder = json.loads(text)
        return (f"process {int(holder['pid'])} on {str(holder['host'])[:64]} has been writing to "
                f"it since {str(holder['since'])[:32]}")
    except (ValueError, KeyError, TypeError):
        return "another process is writing to it"
