"""Several processes that train one run, each some of its members.

Members exchange nothing while they learn, so each process trains its own on its own devices, as if
it were alone; no program spans two. Metrics, scores and checkpoints go to process 0, which writes,
and from it comes the word to stop.
"""

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from varshare_jax.config import Config
from varshare_jax.errors import UserError
from varshare_jax.runs import links
from varshare_jax.runs.checkpoint import with_key, without_key
from varshare_jax.runs.files import plain
from varshare_jax.runs.links import FLAG, Link
from varshare_jax.runs.settings import AUTO, DistributedConfig
from varshare_jax.runs.signals import STOPPED, Stop, Stopped
from varshare_jax.settings import flag_value, leaves

_HELLO = {"process": int, "processes": int, "devices": int, "settings": dict}
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
        raise UserError(f"{FLAG}={AUTO}: {error}") from error
    if None in (address, processes, process):
        raise UserError(f"{FLAG}={AUTO}: nothing here says who the processes are (SLURM's srun, a "
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
        self._links: dict[int, Link] = {}
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
            self._links[0] = links.dial(self._place.host, self._place.port, end)
            self._links[0].say(hello)
            if not self._links[0].speaks(end - time.monotonic()):
                raise UserError(f"{FLAG}={self._place.host}:{self._place.port}: process 0 is "
                                f"there, others are missing after {timeout} s")
            self.devices = self._links[0].hear()
            return
        for link, other in links.listen(self._place.host, self._place.port, end, self.count - 1,
                                        _HELLO):
            link.number = other["process"]
            known = link.number not in self._links
            self._links[link.number if known else self.count] = link
            _check(hello, other, known)
            self.devices += other["devices"]
        self.tell(self.devices)

    def tell(self, value: Any) -> Any:
        """What process 0 has to say, of JSON, in all of them."""
        if self.count == 1:
            return value
        if not self.first:
            return self._links[0].hear()
        for link in self._links.values():
            link.say(value)
        return value

    def any(self, asked: bool) -> bool:
        """Whether at least one of them is; all come to the same answer."""
        if self.first:
            answers = [link.hear() for link in self._links.values()]
            return self.tell(asked or any(answers))
        self._links[0].say(asked)
        return self.tell(None)

    def gather(self, tree: Any) -> Any:
        """Their trees, leaves [S_i, ...], as one, [S, ...], in process 0; None in the others."""
        if self.count == 1:
            return tree
        found, structure = jax.tree.flatten(tree)
        mine = (np.asarray(jax.device_get(without_key(leaf))) for leaf in found)
        if not self.first:
            self._links[0].say(len(found))
            for array in mine:
                self._links[0].send(array)
            return None
        whole = [self._with_room(array) for array in mine]
        for number, link in self._links.items():
            link.hear()
            for array in whole:
                link.receive(array[self._shares[number]])
        return jax.tree.unflatten(structure, map(with_key, whole, found))

    def scatter(self, whole: Any, like: Any) -> Any:
        """Of a tree [S, ...] that process 0 has, to each its own members; `like` has their shapes.
        """
        if self.count == 1:
            return whole
        wanted, structure = jax.tree.flatten(like)
        if self.first:
            found = [np.asarray(without_key(leaf)) for leaf in jax.tree.leaves(whole)]
            for number, link in self._links.items():
                for array in found:
                    link.send(array[self._shares[number]])
            mine = [array[self.mine] for array in found]
        else:
            shapes = [jax.eval_shape(without_key, leaf) for leaf in wanted]
            mine = [np.empty(shape.shape, shape.dtype) for shape in shapes]
            for array in mine:
                self._links[0].receive(array)
        return jax.tree.unflatten(structure, map(with_key, mine, wanted))

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
        for link in self._links.values():
            link.fail(why, status)

    def close(self) -> None:
        """Ends the connections."""
        for link in self._links.values():
            link.close()

    def _with_room(self, mine: np.ndarray) -> np.ndarray:
        whole = np.empty((self._shares[-1].stop, *mine.shape[1:]), mine.dtype)
        whole[self.mine] = mine
        return whole


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
