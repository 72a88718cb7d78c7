"""CartPole-10 Hard: its cart-poles with a late action, a noisy observation, a longer horizon.

The time step is half of CartPole's, without which a late action could not be recovered from on
the short poles.
"""

from varshare_jax.suites.cartpole import TASKS
from varshare_jax.suites.cartpole_disturbed import Disturbance, DisturbedCartPoleSuite

VERSION = "1"
HARD = Disturbance(time_step=0.01, horizon=1000, delay=1, noise=(0.05, 0.1, 0.03, 0.1))
RANDOM_RETURNS = (51.3, 62.5, 73.5, 96.9, 17.3, 12.7, 11.2, 9.5, 16.7, 13.4)  # 4096 episodes


def make() -> DisturbedCartPoleSuite:
    """The suite `cartpole10_hard`, M = 10."""
    tasks = tuple(task._replace(random_return=measured)
                  for task, measured in zip(TASKS, RANDOM_RETURNS, strict=True))
    return DisturbedCartPoleSuite("cartpole10_hard", tasks, VERSION, HARD)
