"""The configuration tree: frozen dataclasses, validated once, the only source of every flag.

A field's metadata holds its help text, its allowed values (`choices`) and whether it is
`traced`: traced fields are scalars of the compiled program, so a vector of them can be
vmapped beside the seeds without compiling again (see `Config.scalars`).
"""

import dataclasses
import itertools
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from varshare_jax.errors import UserError, unknown


def _field(default: Any, help: str, *, choices: tuple[str, ...] = (), traced: bool = False):
    metadata = {"help": help, "choices": choices, "traced": traced}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347)."""

    num_envs: int = _field(16, "environments of each task, stepped in parallel (N)")
    rollout_length: int = _field(128, "steps of each environment per update (T)")
    epochs: int = _field(4, "passes over a rollout")
    minibatches: int = _field(4, "minibatches per epoch; each holds every task in equal share")
    learning_rate: float = _field(1e-3, "Adam's learning rate", traced=True)
    anneal_learning_rate: bool = _field(True, "decay the learning rate linearly to zero")
    adam_epsilon: float = _field(1e-5, "Adam's epsilon")
    max_grad_norm: float = _field(0.5, "clip norm of the shared and of each task's gradient",
                                  traced=True)
    discount: float = _field(0.99, "discount γ", traced=True)
    gae_lambda: float = _field(0.95, "λ of generalised advantage estimation", traced=True)
    clip: float = _field(0.2, "clip range ε of the surrogate and of the value loss", traced=True)
    clip_value: bool = _field(True, "clip the value loss as well")
    value_coefficient: float = _field(0.5, "weight of the value loss", traced=True)
    entropy_coefficient: float = _field(0.01, "weight of the entropy bonus", traced=True)
    normalize_advantage: bool = _field(True, "standardise advantages per task and minibatch")
    normalize_observations: bool = _field(True, "standardise observations per task, running")
    normalize_returns: bool = _field(True, "scale rewards per task by the running deviation "
                                           "of the discounted return")
    popart_rate: float = _field(0.0, "rate at which PopArt's per-task value statistics follow the "
                                     "returns, which the critic then predicts standardised; 0: "
                                     "no PopArt")
    target_kl: float = _field(0.0, "skip the epochs left once the approximate KL of the policy "
                                   "exceeds this; 0 never does")


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The network of one task; every method uses the same."""

    hidden: tuple[int, ...] = _field((64, 64), "widths of the hidden layers, comma-separated; "
                                               "bronet: one for the input layer, then one a block")
    torso: str = _field("mlp", "hidden layers: plain or residual blocks",
                        choices=("mlp", "bronet"))
    trunk: str = _field("separate", "whether actor and critic have hidden layers of their own",
                        choices=("separate", "shared"))
    activation: str = _field("tanh", "activation of the hidden layers",
                             choices=("tanh", "relu", "elu", "silu", "gelu"))
    layer_norm: bool = _field(False, "LayerNorm before every activation of an mlp")
    critic: str = _field("scalar", "what the critic puts out: a value, trained by squared error, "
                                   "or a distribution over atoms, by cross-entropy (never "
                                   "clipped)", choices=("scalar", "categorical"))
    atoms: int = _field(101, "values of a categorical critic's support")
    value_bound: float = _field(10.0, "a categorical critic's support is [-value_bound, "
                                      "value_bound], in units of the normalised returns")
    initial_log_std: float = _field(0.0, "initial log standard deviation of continuous actions")


@dataclasses.dataclass(frozen=True)
class VarShareConfig:
    """VarShare's posterior, prior and the weights that act and learn."""

    beta: float = _field(1.0, "weight β of KL / samples per task; 1 is the per-sample ELBO",
                         traced=True)
    sigma_prior: float = _field(0.1, "standard deviation of the prior", traced=True)
    sigma_init: float = _field(0.01, "initial standard deviation of the posterior")
    estimator: str = _field("shared", "estimator of the expected loss",
                            choices=("shared", "flipout", "local"))
    act_with: str = _field("mean", "weights that collect rollouts", choices=("mean", "sample"))
    learn_with: str = _field("sample", "weights in the loss", choices=("mean", "sample"))
    hold: str = _field("rollout", "how long an acting sample is held",
                       choices=("rollout", "episode", "step"))
    draws: int = _field(1, "draws of the weights per minibatch, whose gradients are averaged")
    learn_sigma: bool = _field(True, "learn the posterior's standard deviations; else they stay "
                                     "at sigma_init")
    control: str = _field("fixed", "what steers beta and sigma_prior while training; see control.*",
                          choices=("fixed", "annealed", "triggered", "sigma_adaptive",
                                   "empirical_bayes"))
    recenter: str = _field("none", "move task means to the shared weights after every update: one "
                                   "shift for all, which no task's function notices, or each its "
                                   "own, as in the legacy notes",
                           choices=("none", "shift", "literal"))
    recenter_rate: float = _field(0.1, "share α of the means that moves", traced=True)


@dataclasses.dataclass(frozen=True)
class ControlConfig:
    """Controllers of β and σ_prior (docs/kl_prior.md)."""

    warmup: float = _field(0.1, "annealed: fraction of training in which β rises from 0",
                           traced=True)
    ramp: float = _field(0.8, "annealed: fraction of training after which β rises again",
                         traced=True)
    ramp_factor: float = _field(2.0, "annealed: the last β over the one held", traced=True)
    every: int = _field(20, "triggered, sigma_adaptive: updates between decisions (K)")
    ema: float = _field(0.05, "triggered, sigma_adaptive: weight α of a new measurement",
                        traced=True)
    ratio_min: float = _field(0.05, "triggered: β falls while noise over weight is below",
                              traced=True)
    ratio_max: float = _field(0.2, "triggered: β rises while noise over weight is above",
                              traced=True)
    gamma_up: float = _field(1.1, "triggered: factor by which β rises", traced=True)
    gamma_down: float = _field(1.1, "triggered: divisor by which β falls", traced=True)
    beta_min: float = _field(1e-4, "triggered: least β", traced=True)
    beta_max: float = _field(100.0, "triggered: greatest β", traced=True)
    sigma_min: float = _field(0.01, "sigma_adaptive: lower bound of σ_prior", traced=True)
    sigma_max: float = _field(0.3, "sigma_adaptive: upper bound of σ_prior", traced=True)
    kappa: float = _field(1.0, "sigma_adaptive: steepness κ of the map from z to σ_prior²",
                          traced=True)
    hyperprior: float = _field(1e-3, "empirical_bayes: strength λ of the spring that ties log "
                                     "σ_prior to its start", traced=True)
    rate: float = _field(0.1, "empirical_bayes: log σ_prior's learning rate over all others'",
                         traced=True)
    detach_sigma: bool = _field(False, "empirical_bayes: σ_prior follows the means alone, not the "
                                       "posterior's σ")


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Low-rank residuals."""

    rank: int = _field(4, "rank r of each kernel's residual")


@dataclasses.dataclass(frozen=True)
class TrustRegionConfig:
    """Trust region around the posterior that an update starts from."""

    eta: float = _field(1.0, "weight η at the start; it adapts for each task", traced=True)
    target: float = _field(0.05, "KL ε to keep to in an update, nats per parameter", traced=True)


@dataclasses.dataclass(frozen=True)
class MetaWorldConfig:
    """The suites mt10, mt3 and mt1:<task>."""

    physics: str = _field("auto", "engine that steps the scenes: mujoco on a CPU, mjx on any "
                                  "device; auto: mujoco where JAX computes on a CPU, else mjx",
                          choices=("auto", "mjx", "mujoco"))
    threads: int = _field(0, "threads that step scenes in C; 0: one for each core")
    reward: str = _field("v2", "version of Meta-World's rewards", choices=("v1", "v2"))
    horizon: int = _field(500, "steps of an episode")
    observe_goal: bool = _field(True, "show the goal, as MT benchmarks do; else zeros in its place")
    one_hot: bool = _field(False, "append the task's one-hot code to its observations")


@dataclasses.dataclass(frozen=True)
class L2SoftConfig:
    """L2-soft sharing."""

    penalty: float = _field(1e-3, "weight λ of each task's squared residual norm", traced=True)


@dataclasses.dataclass(frozen=True)
class ContextualConfig:
    """Contextual policies."""

    size: int = _field(8, "entries of each task's embedding")


@dataclasses.dataclass(frozen=True)
class PaCoConfig:
    """Parameter-compositional networks."""

    bases: int = _field(5, "networks that tasks combine (K)")
    loss_threshold: float = _field(100.0, "tasks whose loss exceeds this sit an update out and "
                                          "draw new coefficients", traced=True)


@dataclasses.dataclass(frozen=True)
class SoftModularizationConfig:
    """Soft modularization; presets soft_shallow (2 × 2) and soft_deep (4 × 4)."""

    layers: int = _field(2, "layers of modules (L)")
    modules: int = _field(2, "modules of each layer (n)")


@dataclasses.dataclass(frozen=True)
class GradientsConfig:
    """How tasks' gradients of the shared parameters become one."""

    combine: str = _field("mean", "combiner", choices=("mean", "pcgrad", "cagrad"))
    separately: bool = _field(True, "combine actor, critic and shared trunk each by itself")
    cagrad_c: float = _field(0.4, "CAGrad's c: radius around the mean gradient, relative to its "
                                  "norm", traced=True)
    cagrad_rescale: bool = _field(True, "divide CAGrad's update by 1 + c²")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What the runner does between chunks of updates; none of it changes what is learned."""

    log_every: int = _field(10, "updates per compiled chunk; metrics are logged after each")
    eval_every: int = _field(50, "updates between evaluations (rounded up to whole chunks)")
    eval_episodes: int = _field(10, "episodes per task in evaluations during training")
    final_eval_episodes: int = _field(50, "episodes per task in the last evaluation")
    checkpoint_every: int = _field(50, "updates between checkpoints (rounded up to chunks)")
    keep_checkpoints: int = _field(2, "checkpoints kept, the newest")
    tensorboard: bool = _field(True, "write TensorBoard events")
    compile_cache: str = _field("auto", "folder of the persistent compilation cache; 'auto' "
                                        "is a folder of the user's cache, '' turns it off")
    devices: int = _field(0, "devices to spread the work over; on a CPU each is one core; 0: all")


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run: a suite, a method, S seeds in one compiled program."""

    suite: str = _field("cartpole10", "tasks to learn: cartpole10, lunar_lander20, "
                                      "lunar_lander20_continuous, mt10, mt3, mt1:<task>, their "
                                      "single tasks cartpole, lunar_lander, or gymnax:<id>")
    method: str = _field("varshare", "how tasks share parameters")
    num_seeds: int = _field(1, "seeds trained side by side in one compiled program (S)")
    seed: int = _field(0, "the first seed; the others follow")
    total_steps: int = _field(1_000_000, "environment steps per seed, summed over tasks")
    sweep: str = _field("", "traced fields to vary in one compiled program, such as "
                            "'varshare.beta=0.1,1;ppo.learning_rate=3e-4,1e-3'; every "
                            "combination trains num_seeds seeds")
    run_dir: str = _field("", "folder of the run; '' writes nothing")
    capacity: str = _field("free", "matched: widths are scaled so that one task's forward pass "
                                   "reads as many parameters as VarShare's does at "
                                   "--network.hidden, within 2 %", choices=("free", "matched"))
    ppo: PPOConfig = dataclasses.field(default_factory=PPOConfig)
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    varshare: VarShareConfig = dataclasses.field(default_factory=VarShareConfig)
    control: ControlConfig = dataclasses.field(default_factory=ControlConfig)
    lora: LoRAConfig = dataclasses.field(default_factory=LoRAConfig)
    trust_region: TrustRegionConfig = dataclasses.field(default_factory=TrustRegionConfig)
    l2_soft: L2SoftConfig = dataclasses.field(default_factory=L2SoftConfig)
    contextual: ContextualConfig = dataclasses.field(default_factory=ContextualConfig)
    paco: PaCoConfig = dataclasses.field(default_factory=PaCoConfig)
    soft_modularization: SoftModularizationConfig = dataclasses.field(
        default_factory=SoftModularizationConfig)
    gradients: GradientsConfig = dataclasses.field(default_factory=GradientsConfig)
    metaworld: MetaWorldConfig = dataclasses.field(default_factory=MetaWorldConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    @property
    def samples_per_task(self) -> int:
        """Samples T·N that one task contributes to an update."""
        return self.ppo.rollout_length * self.ppo.num_envs

    def scalars(self) -> dict[str, float]:
        """The traced fields by dotted name; any of them may become a vector over seeds."""
        return {f.name: f.value for f in leaves(self) if f.traced}

    def configurations(self) -> tuple["Config", ...]:
        """The C combinations of `sweep` as runs of their own, the last field varying fastest.

        Each has a folder inside `run_dir`. Without a sweep it is this config alone. Raises
        UserError for a sweep that cannot be read or varies what is not traced.
        """
        if not self.sweep:
            return (self,)
        varied = _parse_sweep(self.sweep, self.scalars())
        changes = [dict(zip(varied, values, strict=True))
                   for values in itertools.product(*varied.values())]
        return tuple(replace(self, change | {
            "sweep": "", "run_dir": self.run_dir and f"{self.run_dir}/{_label(change)}"})
            for change in changes)

    def members(self) -> list["Config"]:
        """What one program trains side by side: S = C · num_seeds configs of one seed each."""
        return [dataclasses.replace(config, seed=self.seed + s, num_seeds=1)
                for config in self.configurations() for s in range(self.num_seeds)]

    def num_updates(self, num_tasks: int) -> int:
        """Updates that reach `total_steps` with M = `num_tasks`, rounded up."""
        return max(1, math.ceil(self.total_steps / (num_tasks * self.samples_per_task)))

    def validate(self) -> "Config":
        """Returns self; raises UserError at the first value that cannot work."""
        for leaf in leaves(self):
            if leaf.choices and leaf.value not in leaf.choices:
                raise unknown(f"--{leaf.name}", leaf.value, leaf.choices)
            if isinstance(leaf.value, float) and not math.isfinite(leaf.value):
                raise UserError(f"--{leaf.name}={leaf.value}: must be a finite number")
        for name in _POSITIVE:
            if (value := get(self, name)) <= 0:
                raise UserError(f"--{name}={value}: must be greater than 0")
        for name in _NOT_NEGATIVE:
            if (value := get(self, name)) < 0:
                raise UserError(f"--{name}={value}: must not be negative")
        for name in _UNIT:
            if not 0 <= (value := get(self, name)) <= 1:
                raise UserError(f"--{name}={value}: must lie in [0, 1]")
        for low, high in _ORDERED:
            if (value := get(self, low)) > (bound := get(self, high)):
                raise UserError(f"--{low}={value}: must not exceed --{high}={bound}")
        if self.seed + self.num_seeds > 2**31:
            raise UserError(f"--seed={self.seed}: seed + num_seeds must stay below 2147483648")
        if not self.network.hidden or min(self.network.hidden) <= 0:
            raise UserError(f"--network.hidden={self.network.hidden}: widths must be positive")
        if self.network.torso == "bronet" and len(set(self.network.hidden)) > 1:
            raise UserError(f"--network.hidden={self.network.hidden}: widths of a bronet must be "
                            "equal")
        if self.network.critic == "categorical" and self.network.atoms < 2:
            raise UserError(f"--network.atoms={self.network.atoms}: must be at least 2")
        if self.network.critic == "categorical" and self.ppo.popart_rate:
            raise UserError(f"--ppo.popart_rate={self.ppo.popart_rate}: PopArt rescales a scalar "
                            "critic; a categorical one has a fixed support")
        if self.samples_per_task % self.ppo.minibatches:
            raise UserError(
                f"--ppo.minibatches={self.ppo.minibatches}: must divide num_envs × "
                f"rollout_length = {self.ppo.num_envs} × {self.ppo.rollout_length} = "
                f"{self.samples_per_task}")
        if self.sweep:
            for config in self.configurations():
                config.validate()
        return self


_POSITIVE = (
    "num_seeds", "total_steps", "ppo.num_envs", "ppo.rollout_length", "ppo.epochs",
    "ppo.minibatches", "ppo.learning_rate", "ppo.adam_epsilon", "ppo.max_grad_norm", "ppo.clip",
    "network.value_bound", "varshare.sigma_prior", "varshare.sigma_init", "varshare.draws",
    "control.every", "control.gamma_up", "control.gamma_down", "control.sigma_min", "lora.rank",
    "trust_region.eta", "trust_region.target", "contextual.size",
    "paco.bases", "paco.loss_threshold", "soft_modularization.layers",
    "soft_modularization.modules", "gradients.cagrad_c", "run.log_every", "run.eval_every",
    "run.eval_episodes", "run.final_eval_episodes", "run.checkpoint_every",
    "run.keep_checkpoints", "metaworld.horizon")
_NOT_NEGATIVE = (
    "seed", "ppo.value_coefficient", "ppo.entropy_coefficient", "ppo.target_kl", "varshare.beta",
    "control.ratio_min", "control.beta_min", "control.ramp_factor", "control.kappa",
    "control.hyperprior", "control.rate", "l2_soft.penalty", "run.devices")
_UNIT = ("ppo.discount", "ppo.gae_lambda", "ppo.popart_rate", "varshare.recenter_rate",
         "control.warmup", "control.ramp", "control.ema")
_ORDERED = (("control.warmup", "control.ramp"), ("control.ratio_min", "control.ratio_max"),
            ("control.beta_min", "control.beta_max"), ("control.sigma_min", "control.sigma_max"))


def _parse_sweep(text: str, traced: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    varied = {}
    for part in filter(None, text.split(";")):
        name, _, values = part.partition("=")
        if name not in traced:
            raise unknown("--sweep: field", name, traced)
        try:
            varied[name] = tuple(float(value) for value in values.split(","))
        except ValueError:
            raise UserError(f"--sweep={text}: must be fields with their values, such as "
                            f"'varshare.beta=0.1,1;ppo.learning_rate=3e-4,1e-3'") from None
        if len(set(varied[name])) < len(varied[name]):
            raise UserError(f"--sweep={text}: '{name}' has a value twice")
    return varied


def _label(change: Mapping[str, float]) -> str:
    """A folder's name, such as learning_rate=0.001,beta=1."""
    return ",".join(f"{name.rpartition('.')[2]}={value:g}" for name, value in change.items())


class Leaf(typing.NamedTuple):
    """A field of the tree: its dotted name, value, type and metadata."""

    name: str
    value: Any
    type: Any
    help: str
    choices: tuple[str, ...]
    traced: bool


def leaves(config: Any, prefix: str = "") -> Iterator[Leaf]:
    """All leaf fields of a config tree, depth first, with dotted names."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield Leaf(prefix + field.name, value, hints[field.name], **field.metadata)


def get(config: Any, name: str) -> Any:
    """The value of a dotted name."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def replace(config: Config, overrides: Mapping[str, Any]) -> Config:
    """A config with the dotted names in `overrides` changed.

    Raises UserError for a name the tree does not have or a value of the wrong type.
    """
    known = {leaf.name: leaf for leaf in leaves(config)}
    for name, value in overrides.items():
        if name not in known:
            raise unknown("config field", name, known)
        config = _replace_one(config, name.split("."), _cast(known[name], value))
    return config


def _replace_one(node: Any, path: list[str], value: Any) -> Any:
    head, *rest = path
    inner = _replace_one(getattr(node, head), rest, value) if rest else value
    return dataclasses.replace(node, **{head: inner})


def _cast(leaf: Leaf, value: Any) -> Any:
    if isinstance(leaf.value, tuple) and isinstance(value, list | tuple):
        return tuple(value)
    if isinstance(leaf.value, float) and type(value) is int:
        return float(value)
    if type(value) is not type(leaf.value):
        raise UserError(f"{leaf.name}={value!r}: must be of type {type(leaf.value).__name__}")
    return value


def to_dict(config: Config) -> dict[str, Any]:
    """The tree as nested plain dicts (tuples become lists), ready for JSON."""
    plain = dataclasses.asdict(config)
    plain["network"]["hidden"] = list(plain["network"]["hidden"])
    return plain


def from_dict(tree: Mapping[str, Any]) -> Config:
    """Inverse of `to_dict`; raises UserError for unknown fields."""
    return replace(Config(), dict(flatten(tree)))


def to_flags(config: Config, presets: Sequence[str] = ()) -> list[str]:
    """The command line that makes `config`, with `presets` applied before single flags."""
    base = with_presets(Config(), presets)
    flags = [f"--{leaf.name}={flag_value(leaf.value)}" for leaf in leaves(config)
             if leaf.value != get(base, leaf.name)]
    return [f"--preset={','.join(presets)}", *flags] if presets else flags


def flag_value(value: Any) -> str:
    """A value as its flag is written."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings by dotted name."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


_KL_PRIOR = {"method": "varshare", "varshare.act_with": "mean", "varshare.learn_with": "sample",
             "varshare.beta": 1.0, "varshare.sigma_prior": 0.1, "varshare.control": "fixed"}

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "total_steps": 20_000, "ppo.num_envs": 4, "ppo.rollout_length": 32, "run.log_every": 2,
        "run.eval_every": 8, "run.eval_episodes": 2, "run.final_eval_episodes": 4,
    },
    "large_batch": {"ppo.num_envs": 64, "ppo.rollout_length": 128},
    "continuous": {
        "ppo.entropy_coefficient": 0.0, "ppo.learning_rate": 3e-4, "ppo.discount": 0.99,
        "ppo.epochs": 10, "ppo.minibatches": 8, "ppo.max_grad_norm": 1.0,
    },
    "bro": {"network.torso": "bronet", "network.critic": "categorical",
            "network.activation": "relu"},
    "popart": {"ppo.popart_rate": 0.1, "ppo.normalize_returns": False},
    "soft_shallow": {"method": "soft_modularization", "soft_modularization.layers": 2,
                     "soft_modularization.modules": 2},
    "soft_deep": {"method": "soft_modularization", "soft_modularization.layers": 4,
                  "soft_modularization.modules": 4},
    # Many gradient steps on few samples want little noise (docs/results/lunar_lander20.md).
    "lunar_lander": {
        "varshare.sigma_prior": 0.03, "varshare.sigma_init": 0.005, "varshare.beta": 0.003,
        "ppo.num_envs": 16, "ppo.rollout_length": 128, "ppo.epochs": 4, "ppo.minibatches": 16,
        "ppo.learning_rate": 1e-3, "ppo.entropy_coefficient": 5e-3, "ppo.discount": 0.99,
        "ppo.gae_lambda": 0.98,
    },
    # For a CPU, where a step of the physics costs more than a step of the optimiser. Few samples
    # per update and wide layers need a smaller β and σ_prior than the defaults (docs/metaworld.md).
    "metaworld": {
        "varshare.sigma_prior": 0.03, "varshare.sigma_init": 0.005, "varshare.beta": 0.05,
        "ppo.num_envs": 32, "ppo.rollout_length": 50, "ppo.epochs": 10, "ppo.minibatches": 8,
        "ppo.learning_rate": 5e-4, "ppo.entropy_coefficient": 0.0, "ppo.max_grad_norm": 1.0,
        "ppo.discount": 0.99, "ppo.gae_lambda": 0.95, "network.hidden": (256, 128),
        "network.activation": "elu", "network.initial_log_std": -0.5, "run.log_every": 1,
    },
    # After `metaworld`, for a GPU: enough envs to fill it, MTBench's PPO (arXiv 2507.23172).
    "metaworld_gpu": {
        "varshare.beta": 1.0,
        "ppo.num_envs": 1024, "ppo.rollout_length": 32, "ppo.epochs": 5, "ppo.minibatches": 8,
        "ppo.entropy_coefficient": 5e-3, "network.hidden": (256, 128, 64),
        "network.initial_log_std": 0.0, "run.log_every": 10,
    },
    "varshare_control": _KL_PRIOR,
    "varshare_sigma001": _KL_PRIOR | {"varshare.sigma_prior": 0.01},
    "varshare_unit_prior": _KL_PRIOR | {"varshare.sigma_prior": 1.0},
    "varshare_beta_annealed": _KL_PRIOR | {"varshare.control": "annealed"},
    "varshare_beta_triggered": _KL_PRIOR | {"varshare.control": "triggered"},
    "varshare_sigma_adaptive": _KL_PRIOR | {"varshare.control": "sigma_adaptive"},
    "varshare_empirical_bayes": _KL_PRIOR | {"varshare.control": "empirical_bayes"},
}
"""Named bundles of overrides: applied in the order given, before single flags."""


def with_presets(config: Config, names: Sequence[str]) -> Config:
    """Applies presets in order; raises UserError for an unknown one."""
    for name in names:
        if name not in PRESETS:
            raise unknown("--preset", name, PRESETS)
        config = replace(config, PRESETS[name])
    return config
