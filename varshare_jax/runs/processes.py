"""Several processes that train one run, each some of its members, and what they tell each other.

Members exchange nothing while they learn, so each process trains its own on its own devices, as if
it were alone. Process 0 has a connection to each of the others; over it go metrics, scores,
checkpoints and the word to stop. The system closes it when a process ends, however that ends, so
the others learn of it where they would have waited. (`jax.distributed` aborts the process then.)
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any

import jax
import numpy as np

from varshare_jax.config import Config
from varshare_jax.errors import UserError
from varshare_jax.runs.checkpoint import is_key, without_key
from varshare_jax.runs.files import parse_json, plain
from varshare_jax.runs.settings import AUTO, DistributedConfig
from varshare_jax.runs.signals import STOPPED, Stop, Stopped
from varshare_jax.settings import flag_value, leaves

_FLAG = "--distributed.coordinator"
_GOES_ON, _FAILED = b".", b"!"  # what a message begins with
_LONGEST, _BLOCK = 2**26, 2**24  # bytes of a message, of a piece of an array
_RETRY_SECONDS, _STRANGER_SECONDS = 0.2, 5.0
_HELLO = {"process": int, "processes": int, "devices": int, "settings": dict}
# A host that is gone without a word is asked for a sign of life, and given up after a minute.
_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 9, "TCP_USER_TIMEOUT": 60_000}
_OF_A_HOST = ("run.devices", "run.compile_cache")  # may differ between processes


@dataclasses.dataclass(frozen=True)
class Place:
    """Process `index` of `count`, which meet at an address."""

    index: int = 0
    count: int = 1
    host: str = ""
    port: int = 0

    def share(self, members: int) -> list[tuple[int, int]]:
        """From which to which of the S members each process trains: as many, but for one.

        Raises UserError where there are fewer than processes.
        """
        if members < self.count:
            raise UserError(f"--distributed.processes={self.count}: are more than the {members} "
                            "members (seeds × folds × swept values) that they could share")
        edges = [index * members // self.count for index in range(self.count + 1)]
        return list(itertools.pairwise(edges))


def find(settings: DistributedConfig) -> Place:
    """Where this process stands; has to be called before JAX has looked for its devices.

    Raises UserError for settings that cannot work.
    """
    for leaf in leaves(settings, f"{settings.section}."):
        leaf.check()
    settings.check()
    if not settings.coordinator:
        return Place()
    if settings.coordinator != AUTO:
        host, port = settings.address
        return Place(settings.process, settings.processes, host, port)
    address, processes, process = _detect(settings.timeout)
    return find(DistributedConfig(address, process, processes))


def _detect(timeout: int) -> tuple[str, int, int]:
    """The coordinator's address, how many processes there are and which this is, as JAX knows it
    of SLURM, TPU pods, Open MPI and Kubernetes."""
    from jax._src.clusters import ClusterEnv  # what `jax.distributed.initialize()` asks

    try:
        address, processes, process, local = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, timeout)
    except Exception as error:  # metadata servers and environments fail in many ways
        raise UserError(f"{_FLAG}={AUTO}: {error}") from error
    if None in (address, processes, process):
        raise UserError(f"{_FLAG}={AUTO}: nothing here says who the processes are (SLURM's srun, a "
                        "TPU pod, Open MPI, Kubernetes do); give host:port and the other two flags")
    if local:  # one GPU for each of a host's processes
        visible = ",".join(map(str, local))
        jax.config.update("jax_cuda_visible_devices", visible)
        jax.config.update("jax_rocm_visible_devices", visible)
    return str(address), int(processes or 0), int(process or 0)


@contextlib.contextmanager
def joined(place: Place, config: Config, timeout: int) -> Iterator["Processes"]:
    """Context in which all processes of a run are there. What ends it in one ends it in all.

    Raises UserError where they do not come within `timeout` seconds or have other settings, and
    inside, where another one fails; Stopped where a signal has ended another one.
    """
    processes = Processes(place, len(config.members()))
    try:
        processes.meet(config, timeout)
        yield processes
    except BaseException as error:
        stopped = isinstance(error, Stopped | KeyboardInterrupt)
        named = str(error) if isinstance(error, UserError | OSError) else repr(error)
        processes.fail(f"{named}"[:1000], STOPPED if stopped else 2)
        raise
    finally:
        processes.close()


class Processes:
    """All processes of a run of S members, as one of them sees them."""

    def __init__(self, place: Place = Place(), members: int = 1):
        self._place = place
        self._shares = [slice(*share) for share in place.share(members)]
        self._links: dict[int, Connection] = {}
        self._sending = threading.Lock()
        self.devices = 0

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self._place.index == 0

    @property
    def count(self) -> int:
        return self._place.count

    @property
    def mine(self) -> slice:
        """The members that this process trains."""
        return self._shares[self._place.index]

    def meet(self, config: Config, timeout: int) -> None:
        """Waits until all are there; `devices` is how many they have together."""
        hello: dict[str, Any] = {"process": self._place.index, "processes": self.count,
                 "devices": jax.local_device_count(), "settings": _common(config)}
        self.devices = hello["devices"]
        if self.count == 1:
            return
        end = time.monotonic() + timeout
        if not self.first:
            self._links[0] = _dial(self._place, end)
            self._say(0, hello)
            if not self._links[0].poll(max(0.0, end - time.monotonic())):
                raise UserError(f"{_FLAG}={self._place.host}:{self._place.port}: process 0 is "
                                f"there, others are missing after {timeout} s")
            self.devices = self._hear(0)
            return
        for link, other in _visitors(self._place, end, self.count - 1):
            number = other["process"] if other["process"] not in self._links else self.count
            self._links[number] = link
            _check(hello, other, known=number == other["process"])
            self.devices += other["devices"]
        self.tell(self.devices)

    def tell(self, value: Any) -> Any:
        """What process 0 has to say, of JSON, in all of them."""
        if self.count == 1:
            return value
        if not self.first:
            return self._hear(0)
        for number in self._links:
            self._say(number, value)
        return value

    def any(self, asked: bool) -> bool:
        """Whether at least one of them is; all come to the same answer."""
        if self.first:
            answers = [self._hear(number) for number in self._links]
            return self.tell(asked or any(answers))
        self._say(0, asked)
        return self.tell(None)

    def gather(self, tree: Any) -> Any:
        """Their trees, leaves [S_i, ...], as one, [S, ...], in process 0; None in the others."""
        if self.count == 1:
            return tree
        found, structure = jax.tree.flatten(tree)
        if not self.first:
            self._say(0, len(found))
            for leaf in found:
                self._send(0, np.asarray(jax.device_get(without_key(leaf))))
            return None
        whole = [self._with_room(np.asarray(jax.device_get(without_key(leaf)))) for leaf in found]
        for number in self._links:
            self._hear(number)
            for array in whole:
                self._receive(number, array[self._shares[number]])
        return jax.tree.unflatten(structure, map(_like, whole, found))

    def scatter(self, whole: Any, like: Any) -> Any:
        """Of a tree [S, ...] that process 0 has, to each its own members; `like` has their shapes.
        """
        if self.count == 1:
            return whole
        wanted, structure = jax.tree.flatten(like)
        if self.first:
            found = [np.asarray(without_key(leaf)) for leaf in jax.tree.leaves(whole)]
            for number in self._links:
                for array in found:
                    self._send(number, array[self._shares[number]])
            mine = [array[self.mine] for array in found]
        else:
            shapes = [jax.eval_shape(without_key, leaf) for leaf in wanted]
            mine = [np.empty(shape.shape, shape.dtype) for shape in shapes]
            for array in mine:
                self._receive(0, array)
        return jax.tree.unflatten(structure, map(_like, mine, wanted))

    def stop(self, say: Callable[[str], None], leave: Callable[[], None] | None) -> Stop:
        """What hears of signals here. Only process 0 prints how far training is, but each
        acknowledges its own signals, and one that leaves takes the others along."""
        def say_here(text: str) -> None:
            print(f"process {self._place.index}  {text}", flush=True)

        def leave_all(leave: Callable[[], None]) -> None:
            self.fail("", STOPPED)
            leave()

        return Stop(say if self.first else say_here,
                    leave and functools.partial(leave_all, leave))

    def fail(self, why: str, status: int) -> None:
        """Tells the others that this process ends, as far as they can still hear it."""
        if self._sending.acquire(timeout=1.0):
            for link in self._links.values():
                with contextlib.suppress(OSError):
                    link.send_bytes(_FAILED + json.dumps([why, status]).encode())
            self._sending.release()

    def close(self) -> None:
        """Ends the connections."""
        for link in self._links.values():
            link.close()

    def _with_room(self, mine: np.ndarray) -> np.ndarray:
        whole = np.empty((self._shares[-1].stop, *mine.shape[1:]), mine.dtype)
        whole[self.mine] = mine
        return whole

    def _say(self, number: int, value: Any) -> None:
        self._put(number, _GOES_ON + json.dumps(plain(value)).encode())

    def _send(self, number: int, array: np.ndarray) -> None:
        content = _bytes(np.ascontiguousarray(array))
        for start in range(0, len(content), _BLOCK):
            self._put(number, content[start:start + _BLOCK])

    def _put(self, number: int, content: bytes | memoryview) -> None:
        try:
            with self._sending:
                self._links[number].send_bytes(content)
        except OSError as error:
            self._hear(number)  # it may have said why
            raise _gone(number) from error

    def _hear(self, number: int) -> Any:
        try:
            message = self._links[number].recv_bytes(_LONGEST)
        except (EOFError, OSError) as error:
            raise _gone(number) from error
        if message[:1] == _GOES_ON:
            return parse_json(message[1:], f"what process {number} says", object)
        why, status = parse_json(message[1:], f"what process {number} says", [object])
        if status == STOPPED:
            raise Stopped(f"process {number}")
        raise UserError(f"process {number} has ended: {why}")

    def _receive(self, number: int, into: np.ndarray) -> None:
        content = _bytes(into)
        try:
            for start in range(0, len(content), _BLOCK):
                block = content[start:start + _BLOCK]
                if self._links[number].recv_bytes_into(block) != len(block):
                    raise _gone(number)
        except (EOFError, OSError) as error:
            raise _gone(number) from error


def _gone(number: int) -> UserError:
    return UserError(f"process {number} has ended without a word; the same commands with --resume "
                     "go on from the last checkpoint")


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _like(array: np.ndarray, leaf: Any) -> Any:
    return jax.random.wrap_key_data(jax.numpy.asarray(array)) if is_key(leaf) else array


def _common(config: Config) -> dict[str, Any]:
    """The settings that all processes have to share, for JSON."""
    return {leaf.name: plain(leaf.value) for leaf in leaves(config)
            if leaf.name not in _OF_A_HOST}


def _check(mine: Mapping[str, Any], other: Mapping[str, Any], known: bool) -> None:
    """Raises UserError for a process that does not belong to those of process 0."""
    index, count = other["process"], other["processes"]
    if count != mine["processes"]:
        raise UserError(f"--distributed.processes={count}: that is what process {index} was "
                        f"given; process 0 has {mine['processes']}")
    if not (known and 0 < index < count):
        raise UserError(f"--distributed.process={index}: two processes have that number")
    for name, value in mine["settings"].items():
        if (there := other["settings"].get(name)) != value:
            shown, here = (flag_value(tuple(x) if isinstance(x, list) else x)
                           for x in (there, value))
            raise UserError(f"--{name}={shown}: that is what process {index} was given; process 0 "
                            f"has {here}")


def _visitors(place: Place, end: float, count: int) -> Iterator[tuple[Connection, dict[str, Any]]]:
    """Those who come to process 0 and say who they are, until there are so many."""
    where = f"{_FLAG}={place.host}:{place.port}"
    try:
        family, *_, address = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0]
        server = socket.create_server(address[:2], family=family, backlog=place.count)
    except OSError as error:
        raise UserError(f"{where}: process 0 cannot listen there: {error.strerror}") from error
    came = 0
    with server:
        while came < count:
            server.settimeout(max(1e-3, end - time.monotonic()))
            try:
                link = _link(server.accept()[0])
            except TimeoutError:
                raise UserError(f"{where}: {came + 1} of {place.count} processes have come before "
                                "--distributed.timeout") from None
            if hello := _heard(link):
                came += 1
                yield link, hello


def _heard(link: Connection) -> dict[str, Any] | None:
    """Who has come; None for one who says nothing, or something else, and is sent away."""
    with contextlib.suppress(UserError, EOFError, OSError):
        if link.poll(_STRANGER_SECONDS):
            return parse_json(link.recv_bytes(_LONGEST)[1:], "a process", _HELLO)
    link.close()
    return None


def _dial(place: Place, end: float) -> Connection:
    """A connection to process 0, as soon as it is there."""
    while True:
        try:
            found = socket.create_connection((place.host, place.port),
                                             max(1e-3, end - time.monotonic()))
            # To a free port among those that callers get, a call may connect to itself.
            if found.getsockname() != found.getpeername():
                return _link(found)
            found.close()
        except OSError as error:
            if time.monotonic() + _RETRY_SECONDS > end:
                raise UserError(f"{_FLAG}={place.host}:{place.port}: process 0 does not answer "
                                f"there: {error.strerror or error}") from error
        time.sleep(_RETRY_SECONDS)


def _link(found: socket.socket) -> Connection:
    found.settimeout(None)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in _ALIVE.items():
        if hasattr(socket, name):  # Linux has all of them
            found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Connection(found.detach())
