"""Connections between the processes of a run, and messages over them.

The system closes a connection when its process ends, however that ends, and the other side learns
of it where it waits. (`jax.distributed` would abort the process there, with a trace of its stack.)
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from varshare_jax.errors import UserError
from varshare_jax.runs.files import Shape, check, parse_json, plain
from varshare_jax.runs.signals import STOPPED, Stopped

FLAG = "--distributed.coordinator"
_GOES_ON, _FAILED = b".", b"!"  # what a message begins with
_LONGEST, _BLOCK = 2**26, 2**24  # bytes of a message, of a piece of an array
_RETRY_SECONDS, _STRANGER_SECONDS = 0.2, 5.0
# A host that is gone without a word is asked for a sign of life, and given up after a minute.
_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 9, "TCP_USER_TIMEOUT": 60_000}


class Link:
    """The connection to process `number`.

    Where that process has ended, whatever waits for it raises UserError, or Stopped where a signal
    has ended it.
    """

    def __init__(self, found: socket.socket, number: int = 0):
        found.settimeout(None)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, value in _ALIVE.items():
            if hasattr(socket, name):  # Linux has all of them
                found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.number, self._connection = number, Connection(found.detach())
        self._sending = threading.Lock()

    def say(self, value: Any) -> None:
        """Sends something of JSON."""
        self._put(_GOES_ON + json.dumps(plain(value)).encode())

    def hear(self) -> Any:
        """Waits for what the other side says."""
        try:
            message = self._connection.recv_bytes(_LONGEST)
        except (EOFError, OSError) as error:
            raise self._gone() from error
        what = f"what process {self.number} says"
        if message[:1] == _GOES_ON:
            return parse_json(message[1:], what, object)
        end = parse_json(message[1:], what, {"why": str, "status": int})
        if end["status"] == STOPPED:
            raise Stopped(f"process {self.number}")
        raise UserError(f"process {self.number} has ended: {end['why']}")

    def speaks(self, seconds: float) -> bool:
        """Whether there is something to hear before so long."""
        return self._connection.poll(max(0.0, seconds))

    def send(self, array: np.ndarray) -> None:
        """Sends an array, for one who knows its shape."""
        content = _bytes(np.ascontiguousarray(array))
        for start in range(0, len(content), _BLOCK):
            self._put(content[start:start + _BLOCK])

    def receive(self, into: np.ndarray) -> None:
        """Fills an array with one that is sent."""
        content = _bytes(into)
        try:
            for start in range(0, len(content), _BLOCK):
                block = content[start:start + _BLOCK]
                if self._connection.recv_bytes_into(block) != len(block):
                    raise self._gone()
        except (EOFError, OSError) as error:
            raise self._gone() from error

    def fail(self, why: str, status: int) -> None:
        """Tells the other side that this process ends, as far as it still hears."""
        if self._sending.acquire(timeout=1.0):  # another thread may be in the midst of an array
            with contextlib.suppress(OSError):
                self._connection.send_bytes(_FAILED + json.dumps({
                    "why": why, "status": status}).encode())
            self._sending.release()

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def _put(self, content: bytes | memoryview) -> None:
        try:
            with self._sending:
                self._connection.send_bytes(content)
        except OSError as error:
            self.hear()  # it may have said why
            raise self._gone() from error

    def _gone(self) -> UserError:
        return UserError(f"process {self.number} has ended without a word; the same commands with "
                         "--resume go on from the last checkpoint")


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def listen(host: str, port: int, end: float, count: int,
           shape: Shape) -> Iterator[tuple[Link, Any]]:
    """Those who come to that address and what they say first, of that shape, until there are so
    many; whoever says nothing, or something else, is sent away.

    Raises UserError where nobody can listen there, or they have not come at the time `end`.
    """
    where = f"{FLAG}={host}:{port}"
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = socket.create_server(address[:2], family=family, backlog=count)
    except OSError as error:
        raise UserError(f"{where}: process 0 cannot listen there: {error.strerror}") from error
    came = 0
    with server:
        while came < count:
            server.settimeout(max(1e-3, end - time.monotonic()))
            try:
                link = Link(server.accept()[0])
            except TimeoutError:
                raise UserError(f"{where}: {came + 1} of {count + 1} processes have come before "
                                "--distributed.timeout") from None
            if said := _first_words(link, shape):
                came += 1
                yield link, said


def _first_words(link: Link, shape: Shape) -> Any:
    """What somebody says who has come; None, and the end of the link, for a stranger."""
    with contextlib.suppress(UserError, Stopped):
        if link.speaks(_STRANGER_SECONDS):
            return check(link.hear(), shape, "a process")
    link.close()
    return None


def dial(host: str, port: int, end: float) -> Link:
    """A connection to process 0, as soon as it is there; UserError at the time `end`."""
    while True:
        try:
            found = socket.create_connection((host, port), max(1e-3, end - time.monotonic()))
            # To a free port among those that callers get, a call may connect to itself.
            if found.getsockname() != found.getpeername():
                return Link(found)
            found.close()
        except OSError as error:
            if time.monotonic() + _RETRY_SECONDS > end:
                raise UserError(f"{FLAG}={host}:{port}: process 0 does not answer there: "
                                f"{error.strerror or error}") from error
        time.sleep(_RETRY_SECONDS)
