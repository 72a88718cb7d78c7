"""The settings of a run's loop."""

import dataclasses

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
