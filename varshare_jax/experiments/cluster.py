"""A cluster's jobs through submitit: submitted once, found again by whoever comes later.

submitit leaves a job's pickle under its id in the job's folder, and a job without one ends without
having begun. So these files are the record of what was submitted, which no kill can leave behind.
"""

import contextlib
import importlib.util
import io
import logging
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from varshare_jax.errors import UserError, printable
from varshare_jax.runs.job import Job
from varshare_jax.runs.settings import LauncherConfig

QUEUED, RUNNING, UNKNOWN, ENDED = "queued", "running", "unknown", "ended"
_SLURM = {
    "RUNNING": RUNNING, "COMPLETING": RUNNING, "UNKNOWN": UNKNOWN,
    **dict.fromkeys(("PENDING", "REQUEUED", "PREEMPTED", "SUSPENDED", "CONFIGURING"), QUEUED)}
_PICKLE = "_submitted.pkl"
_REFRESH_SECONDS = 20.0  # a call of sacct; submitit itself lets ten minutes pass
# How long a job without a result may seem to have ended: a shared file system is late to show
# what one has left, and a process that has just been started has no command line for a moment.
_LATE_SECONDS = {"slurm": 10.0, "local": 2.0}
_TAIL_BYTES = 8192


class Submitted:
    """A job that a cluster has or had."""

    def __init__(self, name: str, cluster: str, job: Any):
        self.name, self.id, self._cluster, self._job = name, job.job_id, cluster, job
        self._ended_at = 0.0

    @property
    def log(self) -> Path:
        """What it prints."""
        return self._job.paths.stdout

    def state(self) -> str:
        """QUEUED, RUNNING, ENDED, or UNKNOWN where the cluster does not say."""
        if self._job.paths.result_pickle.exists():
            return ENDED
        if self._cluster == "local":
            return RUNNING if self._has_process() else ENDED
        return _SLURM.get(self._word(), ENDED)

    def over(self) -> bool:
        """Whether it has ended, and what it has left can be seen from here."""
        if self.state() != ENDED:
            self._ended_at = 0.0
            return False
        self._ended_at = self._ended_at or time.monotonic()
        late = time.monotonic() - self._ended_at > _LATE_SECONDS[self._cluster]
        return late or self._job.paths.result_pickle.exists()

    def failure(self) -> str:
        """Why it has failed, "" where it has not: for a job that has ended."""
        if not self._job.paths.result_pickle.exists():
            word = "" if self._cluster == "local" else f" ({self._word()})"
            return f"it ended without a word of its own{word}"
        from submitit.core.utils import UncompletedJobError

        try:
            status = self._job.result()
        except UncompletedJobError:
            status = 1
        lines = self.tail(1)
        return (lines[0] if lines else f"exit status {status}") if status else ""

    def tail(self, count: int) -> list[str]:
        """The last lines that it has printed, without those of submitit."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            lines = printable(file.read().decode(errors="replace")).splitlines()
            return [line.rstrip() for line in lines
                    if line.strip() and not line.startswith("submitit ")][-count:]
        return []

    def refresh(self) -> None:
        """Asks the cluster, for all of its jobs at once."""
        self._job.get_info(mode="force")

    def _word(self) -> str:
        """Slurm's: "CANCELLED by 1000" is CANCELLED."""
        return (self._job.state.split() or ["UNKNOWN"])[0].upper().rstrip("+")

    def _has_process(self) -> bool:
        """Whether the process that submitit started for it is there: its number may be another's
        by now, and of one that has ended but is not waited for the command line is empty."""
        try:
            line = Path(f"/proc/{int(self.id)}/cmdline").read_bytes()
        except (OSError, ValueError):
            return False
        return str(self._job.paths.folder).encode() in line.split(b"\0")


class Cluster:
    """Whose jobs have folders in `folder`. Raises UserError without submitit."""

    def __init__(self, folder: Path, title: str, launcher: LauncherConfig):
        if not importlib.util.find_spec("submitit"):
            raise UserError("submitit is not installed; pip install 'varshare_jax[cluster]'")
        self._folder, self._title, self._launcher = folder.absolute(), title, launcher
        self._asked_at = time.monotonic()

    def find(self, name: str) -> list[Submitted]:
        """All jobs that have been submitted under a name, the newest last."""
        # While a job is put in line again its pickle has a longer name for a moment.
        pickles = sorted(self._folder.glob(f"{name}/*/*{_PICKLE}*"), key=_written_at)
        found = {(path.parent, path.name.partition(_PICKLE)[0]): None for path in pickles}
        return [Submitted(name, folder.name, _kinds()[folder.name][1](folder, id))
                for folder, id in found if folder.name in _kinds()]

    def submit(self, name: str, job: Job) -> Submitted:
        """Raises UserError for what the cluster refuses."""
        from submitit.core.utils import FailedSubmissionError, UncompletedJobError

        cluster = self._launcher.cluster
        folder = self._folder / name / cluster
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with _out_of_reach(), contextlib.redirect_stderr(io.StringIO()):
                return Submitted(name, cluster, self._executor(folder, name).submit(job))
        except (UncompletedJobError, FailedSubmissionError) as error:
            raise UserError(f"--launcher=slurm: the cluster refuses {name}: {error}") from error

    def refresh(self, jobs: list[Submitted]) -> None:
        """Asks the cluster for the states of jobs, now and then."""
        if jobs and time.monotonic() - self._asked_at > _REFRESH_SECONDS:
            self._asked_at = time.monotonic()
            jobs[0].refresh()

    def _executor(self, folder: Path, name: str) -> Any:
        asked = self._launcher
        kind = _kinds()[asked.cluster][0]
        if kind.affinity() < 0:
            raise UserError("--launcher=slurm: there is no srun here; --launcher.cluster=local "
                            "tries a plan out without a cluster")
        executor = kind(folder, max_num_timeout=asked.timeouts)
        if asked.cluster == "local":
            executor.update_parameters(
                timeout_min=60 * asked.hours, signal_delay_s=asked.grace,
                gpus_per_node=asked.gpus, stderr_to_stdout=True)
            return executor
        names = {key: getattr(asked, key) for key in ("partition", "account", "qos", "constraint")}
        memory = {"mem": f"{math.ceil(1024 * asked.memory)}MB"} if asked.memory else {}
        gpus = {"gpus_per_node": asked.gpus} if asked.gpus else {}
        executor.update_parameters(
            job_name=f"{self._title}.{name}", time=math.ceil(60 * asked.hours),
            cpus_per_task=asked.cpus, signal_delay_s=asked.grace, stderr_to_stdout=True,
            additional_parameters={"requeue": True}, **memory, **gpus,
            srun_args=[f"--cpus-per-task={asked.cpus}"],  # since 22.05 sbatch does not tell srun
            **{key: value for key, value in names.items() if value})
        return executor


def _written_at(path: Path) -> float:
    """Its time, or now for one that is being replaced."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime
    return time.time()


def _kinds() -> dict[str, tuple[Any, Any]]:
    """An executor and the class of its jobs by the name of a cluster."""
    from submitit.local.local import LocalExecutor, LocalJob
    from submitit.slurm.slurm import SlurmExecutor, SlurmJob

    logging.getLogger("submitit").setLevel(logging.ERROR)  # UNKNOWN says that sacct fails
    return {"slurm": (SlurmExecutor, SlurmJob), "local": (LocalExecutor, LocalJob)}


@contextlib.contextmanager
def _out_of_reach() -> Iterator[None]:
    """Context in which what is started does not hear what a terminal sends to its processes."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
