"""The settings of a run's loop, of its processes, and of the jobs of a cluster that make runs."""

import dataclasses
import re

from varshare_jax.errors import UserError
from varshare_jax.settings import Section, field


@dataclasses.dataclass(frozen=True)
class RunConfig(Section):
    """What the runner does between chunks of updates; none of it changes what is learned."""

    section = "run"

    log_every: int = field(10, "updates per compiled chunk; metrics are logged after each",
                           above=0)
    eval_every: int = field(50, "updates between evaluations (rounded up to whole chunks)",
                            above=0)
    eval_episodes: int = field(10, "episodes per task in evaluations during training", above=0)
    final_eval_episodes: int = field(50, "episodes per task in the last evaluation", above=0)
    eval_actions: str = field("mode", "actions of evaluations: the most likely, or drawn from the "
                                      "policy", choices=("mode", "sample"))
    checkpoint_every: int = field(50, "updates between checkpoints (rounded up to chunks)",
                                  above=0)
    keep_checkpoints: int = field(2, "checkpoints kept, the newest", above=0)
    tensorboard: bool = field(True, "write TensorBoard events")
    compile_cache: str = field("auto", "folder of the persistent compilation cache; 'auto' is a "
                                       "folder of the user's cache, '' turns it off")
    devices: int = field(0, "devices to spread the work over; on a CPU each is one core; 0: all",
                         least=0)


AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class DistributedConfig(Section):
    """Where the processes that train one run meet; none of it changes what is learned."""

    section = "distributed"

    coordinator: str = field("", "where process 0 is reached by the others, host:port; auto: where "
                                 "SLURM's srun, a TPU pod, Open MPI or Kubernetes say, and all of "
                                 "the three; '': one process trains alone")
    process: int = field(-1, "which of the processes this is, from 0", least=-1)
    processes: int = field(0, "processes that share the run's members: seeds × folds × swept "
                              "values", least=0)
    timeout: int = field(300, "seconds in which all processes have to come", above=0)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the coordinator."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)

    def check(self) -> None:
        """Raises UserError where the three do not say who meets where."""
        needs = ("--distributed.coordinator=host:port, --distributed.process and "
                 "--distributed.processes go together")
        given = {"process": self.process >= 0, "processes": self.processes > 0}
        if self.coordinator in ("", AUTO):
            for name in (name for name, is_given in given.items() if is_given):
                told = self.coordinator or "missing"
                raise UserError(f"--distributed.{name}={getattr(self, name)}: the coordinator is "
                                f"{told}; {needs}")
            return
        if not re.fullmatch(r"([^:/\s]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}", self.coordinator):
            raise UserError(f"--distributed.coordinator={self.coordinator}: must be host:port, "
                            f"such as 10.0.0.1:4321, or {AUTO}")
        if not 0 < self.address[1] < 2**16:
            raise UserError(f"--distributed.coordinator={self.coordinator}: a port lies in [1, "
                            "65535]")
        for name in (name for name, is_given in given.items() if not is_given):
            raise UserError(f"--distributed.{name}: is missing; {needs}")
        if self.process >= self.processes:
            raise UserError(f"--distributed.process={self.process}: must be less than "
                            f"--distributed.processes={self.processes}")


@dataclasses.dataclass(frozen=True)
class LauncherConfig(Section):
    """What every job of a plan gets from a cluster; none of it changes what is learned."""

    section = "launcher"

    cluster: str = field("slurm", "whose jobs they are; local: all at once on this machine, to "
                                  "try a plan out", choices=("slurm", "local"))
    partition: str = field("", "partition of the jobs; '': the cluster's default, here and below")
    account: str = field("", "account that is charged")
    qos: str = field("", "quality of service")
    constraint: str = field("", "features that a node must have")
    gpus: int = field(0, "GPUs of a job", least=0)
    cpus: int = field(2, "CPU cores of a job", above=0)
    memory: float = field(0.0, "memory of a job [GB]; 0: the cluster's default", least=0,
                          most=1e5)
    hours: float = field(24.0, "time of a job [h]; a run that needs more goes on in the next",
                         above=0, most=1e4)
    grace: int = field(120, "seconds that a job has to save before its time is over", above=0)
    timeouts: int = field(100, "how often a job is put in line again when its time is over",
                          least=0)
    workers: int = field(1, "jobs that share the trials of a search", above=0)

    def check(self) -> None:
        """Raises UserError for names that no cluster has: they go into a script."""
        for name in ("partition", "account", "qos", "constraint"):
            if not _NAME.fullmatch(value := getattr(self, name)):
                raise UserError(f"--launcher.{name}={value!r}: must be letters, digits and "
                                "_ . , : = + - / @ & | * ( ) [ ]")
        if self.grace >= 3600 * self.hours:
            raise UserError(f"--launcher.grace={self.grace}: must be less than the "
                            f"{self.hours:g} h of --launcher.hours")


_NAME = re.compile(r"[\w.,:=+\-/@&|*()\[\]]*", re.ASCII)
