"""LunarLander-20: twenty landings from a calm moon to storms under high gravity."""

from typing import Any, NamedTuple

from varshare_jax.suites.lunar_lander.env import check_params


class LunarLanderTask(NamedTuple):
    """What differs between tasks, in Gymnasium's terms; without any wind both powers are 0.

    `random_return` is the mean return of uniformly random actions over 256 episodes.
    """

    name: str
    gravity: float  # m/s², in (-12, 0)
    wind_power: float  # N, recommended up to 20
    turbulence_power: float  # N m, recommended up to 2
    random_return: float

    @property
    def enable_wind(self) -> bool:
        return self.wind_power > 0 or self.turbulence_power > 0

    def gymnasium_options(self) -> dict[str, Any]:
        """Arguments of `gymnasium.make("LunarLander-v3", ...)`."""
        return {"gravity": self.gravity, "enable_wind": self.enable_wind,
                "wind_power": self.wind_power, "turbulence_power": self.turbulence_power}


SOLVED = 200.0  # return from which Gymnasium counts an episode as solved
QUANTITIES = {"gravity": "gravity [m/s²]", "wind_power": "wind [N]",
              "turbulence_power": "turbulence [N m]"}

NOMINAL = LunarLanderTask("nominal", -10.0, 0.0, 0.0, -168.9)

#                   name             gravity  wind  turbulence  random
TASKS = (
    NOMINAL,
    LunarLanderTask("pluto", -0.6, 0.0, 0.0, -849.9),
    LunarLanderTask("moon", -1.6, 0.0, 0.0, -676.2),
    LunarLanderTask("mars", -3.7, 0.0, 0.0, -412.5),
    LunarLanderTask("venus", -8.9, 0.0, 0.0, -196.9),
    LunarLanderTask("jupiter", -11.9, 0.0, 0.0, -169.0),
    LunarLanderTask("moon_breeze", -1.6, 5.0, 0.5, -686.7),
    LunarLanderTask("moon_wind", -1.6, 10.0, 1.0, -647.8),
    LunarLanderTask("moon_gale", -1.6, 15.0, 1.0, -682.6),
    LunarLanderTask("mars_breeze", -3.7, 5.0, 0.5, -435.0),
    LunarLanderTask("mars_wind", -3.7, 10.0, 1.0, -476.7),
    LunarLanderTask("mars_storm", -3.7, 20.0, 1.0, -461.2),
    LunarLanderTask("venus_breeze", -8.9, 5.0, 0.5, -219.3),
    LunarLanderTask("venus_storm", -8.9, 20.0, 0.5, -227.0),
    LunarLanderTask("earth_wind", -10.0, 10.0, 1.0, -226.9),
    LunarLanderTask("earth_gale", -10.0, 15.0, 1.0, -243.5),
    LunarLanderTask("earth_storm", -10.0, 20.0, 1.5, -263.7),
    LunarLanderTask("jupiter_wind", -11.9, 10.0, 1.0, -198.0),
    LunarLanderTask("jupiter_gale", -11.9, 15.0, 1.0, -214.0),
    LunarLanderTask("jupiter_storm", -11.9, 20.0, 2.0, -284.1),
)

for _task in TASKS:
    check_params(_task.gravity, _task.wind_power, _task.turbulence_power)
