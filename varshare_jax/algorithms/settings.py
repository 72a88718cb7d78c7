"""The settings of algorithms. Nothing here imports JAX."""

import dataclasses

from varshare_jax.errors import UserError
from varshare_jax.settings import Section, changed, field


@dataclasses.dataclass(frozen=True)
class AlgorithmConfig(Section):
    """What every algorithm has settings for."""

    num_envs: int = field(16, "environments of each task, stepped in parallel (N)", above=0)
    rollout_length: int = field(128, "steps of each environment per update (T)", above=0)
    learning_rate: float = field(1e-3, "Adam's learning rate", traced=True, above=0)
    task_rate: float = field(1.0, "learning rate of tasks' own parameters over that of the shared "
                                  "ones", traced=True, least=0)
    preconditioner: str = field("own", "whose second moment divides a step: each parameter's own; "
                                       "or one for the shared parameters and tasks' residuals, so "
                                       "that a step splits between them as their gradients do",
                                choices=("own", "shared"))
    anneal_learning_rate: bool = field(True, "decay the learning rate linearly to zero")
    adam_epsilon: float = field(1e-5, "Adam's epsilon", above=0)
    max_grad_norm: float = field(0.5, "clip norm of the shared and of each task's gradient",
                                 traced=True, above=0)
    discount: float = field(0.99, "discount γ", traced=True, least=0, most=1)
    normalize_observations: bool = field(True, "standardise observations per task, running")
    normalize_returns: bool = field(True, "scale rewards per task by the running deviation of the "
                                          "discounted return")


@dataclasses.dataclass(frozen=True)
class OnPolicyConfig(AlgorithmConfig):
    """Settings of epochs over rollouts and of the critic of states."""

    epochs: int = field(4, "passes over a rollout", above=0)
    minibatches: int = field(4, "minibatches per epoch; each holds every task in equal share",
                             above=0)
    gae_lambda: float = field(0.95, "λ of generalised advantage estimation", traced=True, least=0,
                              most=1)
    value_coefficient: float = field(0.5, "weight of the value loss", traced=True, least=0)
    entropy_coefficient: float = field(0.01, "weight of the entropy bonus", traced=True, least=0)
    normalize_advantage: bool = field(True, "standardise advantages per task and minibatch")
    popart_rate: float = field(0.0, "rate at which PopArt's per-task value statistics follow the "
                                    "returns, which the critic then predicts standardised; 0: "
                                    "no PopArt", least=0, most=1)

    def check(self) -> None:
        samples = self.num_envs * self.rollout_length
        if samples % self.minibatches:
            raise UserError(f"--{self.section}.minibatches={self.minibatches}: must divide "
                            f"num_envs × rollout_length = {self.num_envs} × "
                            f"{self.rollout_length} = {samples}")


@dataclasses.dataclass(frozen=True)
class PPOConfig(OnPolicyConfig):
    """Proximal policy optimisation."""

    section = "ppo"

    clip: float = field(0.2, "clip range ε of the surrogate and of the value loss", traced=True,
                        above=0)
    clip_value: bool = field(True, "clip the value loss as well")
    target_kl: float = field(0.0, "skip the epochs left once the approximate KL of the policy "
                                  "exceeds this; 0 never does", least=0)


@dataclasses.dataclass(frozen=True)
class BoundsConfig(Section):
    """What MPO and V-MPO bound, by a temperature and by multipliers of each task's own."""

    epsilon: float = field(0.1, "bound ε on the KL of the E-step's weights from weights that are "
                                "all alike (discrete MPO: from the target policy)", traced=True,
                           above=0)
    epsilon_policy: float = field(0.01, "bound on KL(target ‖ policy) of discrete actions",
                                  traced=True, above=0)
    epsilon_mean: float = field(0.1, "bound on the part of that KL due to Gaussians' means",
                                traced=True, above=0)
    epsilon_covariance: float = field(1e-4, "bound on the part due to their covariances",
                                      traced=True, above=0)
    dual_rate: float = field(0.01, "learning rate of the multipliers", traced=True, above=0)
    initial_temperature: float = field(1.0, "temperature η at the start", above=1e-6)
    initial_multiplier: float = field(1.0, "multipliers α of the KL at the start", above=1e-6)


@dataclasses.dataclass(frozen=True)
class VMPOConfig(BoundsConfig, OnPolicyConfig):
    """V-MPO."""

    section = "vmpo"

    entropy_coefficient: float = changed(OnPolicyConfig, "entropy_coefficient", 0.0)
    target_every: int = field(1, "updates between copies of the policy to the target", above=0)


@dataclasses.dataclass(frozen=True)
class OffPolicyConfig(AlgorithmConfig):
    """Settings of replay, of gradient steps on batches from it, and of target networks."""

    num_envs: int = changed(AlgorithmConfig, "num_envs", 8)
    normalize_observations: bool = changed(AlgorithmConfig, "normalize_observations", False)
    normalize_returns: bool = changed(AlgorithmConfig, "normalize_returns", False)
    replay_size: int = field(50_000, "transitions kept of each task", above=0)
    learning_starts: int = field(1_000, "transitions of each task before the first gradient step",
                                 least=0)
    gradient_steps: int = field(128, "gradient steps per update, which makes num_envs × "
                                     "rollout_length transitions of each task", above=0)
    batch_size: int = field(64, "transitions of each task in a gradient step", above=0)
    n_step: int = field(1, "rewards before the target bootstraps", above=0)
    target_every: int = field(1, "gradient steps between moves of the target network", above=0)
    target_rate: float = field(0.005, "how far it moves then towards the online one; 1: all the "
                                      "way", traced=True, above=0, most=1)

    def check(self) -> None:
        shortest = self.num_envs * self.rollout_length
        if self.replay_size < shortest:
            raise UserError(f"--{self.section}.replay_size={self.replay_size}: must hold one "
                            f"rollout, num_envs × rollout_length = {shortest}")
        if self.learning_starts > self.replay_size:
            raise UserError(f"--{self.section}.learning_starts={self.learning_starts}: must not "
                            f"exceed --{self.section}.replay_size={self.replay_size}")

    @property
    def replay_length(self) -> int:
        """Steps kept of each env."""
        return self.replay_size // self.num_envs


@dataclasses.dataclass(frozen=True)
class DQNConfig(OffPolicyConfig):
    """Deep Q-learning."""

    section = "dqn"

    rollout_length: int = changed(AlgorithmConfig, "rollout_length", 32)
    learning_rate: float = changed(AlgorithmConfig, "learning_rate", 5e-4)
    max_grad_norm: float = changed(AlgorithmConfig, "max_grad_norm", 10.0)
    n_step: int = changed(OffPolicyConfig, "n_step", 3)
    target_rate: float = changed(OffPolicyConfig, "target_rate", 0.01)
    double: bool = field(True, "the online network chooses the action that the target's values")
    epsilon_start: float = field(1.0, "share of random actions at the start", traced=True, least=0,
                                 most=1)
    epsilon_end: float = field(0.05, "share of random actions in the end", traced=True, least=0,
                               most=1)
    epsilon_fraction: float = field(0.2, "fraction of training in which that share falls",
                                    traced=True, above=0, most=1)


@dataclasses.dataclass(frozen=True)
class ActorCriticConfig(OffPolicyConfig):
    """What SAC, DDPG and MPO start from: one gradient step for each transition, no decay."""

    rollout_length: int = changed(AlgorithmConfig, "rollout_length", 8)
    anneal_learning_rate: bool = changed(AlgorithmConfig, "anneal_learning_rate", False)
    max_grad_norm: float = changed(AlgorithmConfig, "max_grad_norm", 100.0)
    replay_size: int = changed(OffPolicyConfig, "replay_size", 100_000)
    gradient_steps: int = changed(OffPolicyConfig, "gradient_steps", 64)
    batch_size: int = changed(OffPolicyConfig, "batch_size", 256)


@dataclasses.dataclass(frozen=True)
class SACConfig(ActorCriticConfig):
    """Soft actor-critic."""

    section = "sac"

    temperature_rate: float = field(1e-3, "learning rate of the temperatures, not annealed",
                                    traced=True, least=0)
    initial_temperature: float = field(1.0, "temperature α at the start", above=0)
    target_entropy: float = field(-1.0, "entropy that α keeps continuous policies at, nats for "
                                        "each number of an action", traced=True)
    target_entropy_share: float = field(0.5, "entropy that α keeps discrete policies at, as a "
                                             "share of that of random actions", traced=True,
                                        least=0, most=1)


@dataclasses.dataclass(frozen=True)
class DDPGConfig(ActorCriticConfig):
    """Deep deterministic policy gradient; preset td3 adds what TD3 does."""

    section = "ddpg"

    exploration_noise: float = field(0.1, "standard deviation of the Gaussian noise on acting",
                                     traced=True, least=0)
    twin: bool = field(False, "two critics, of which targets take the lower")
    policy_delay: int = field(1, "gradient steps of the critic for each of the policy", above=0)
    target_noise: float = field(0.0, "standard deviation of the noise on the target's actions",
                                traced=True, least=0)
    target_noise_clip: float = field(0.5, "bound on that noise", traced=True, least=0)

    def check(self) -> None:
        super().check()
        if self.gradient_steps % self.policy_delay:
            raise UserError(f"--ddpg.policy_delay={self.policy_delay}: must divide "
                            f"--ddpg.gradient_steps={self.gradient_steps}")


@dataclasses.dataclass(frozen=True)
class MPOConfig(BoundsConfig, ActorCriticConfig):
    """MPO."""

    section = "mpo"

    normalize_returns: bool = changed(ActorCriticConfig, "normalize_returns", True)
    n_step: int = changed(ActorCriticConfig, "n_step", 5)
    target_every: int = changed(ActorCriticConfig, "target_every", 100)
    target_rate: float = changed(ActorCriticConfig, "target_rate", 1.0)
    epsilon_mean: float = changed(BoundsConfig, "epsilon_mean", 0.05)
    epsilon_covariance: float = changed(BoundsConfig, "epsilon_covariance", 5e-4)
    action_samples: int = field(20, "actions of the target policy at each observation, where they "
                                    "are continuous", above=0)


SECTIONS: tuple[type[AlgorithmConfig], ...] = (PPOConfig, VMPOConfig, DQNConfig, SACConfig,
                                            DDPGConfig, MPOConfig)
"""Those of single algorithms, in the order of their flags."""
