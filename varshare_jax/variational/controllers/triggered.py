"""β by feedback from the noise that weights are drawn with (KL/prior pack, experiment 3)."""

import jax
import jax.numpy as jnp

from varshare_jax.variational.controllers.base import Fixed, smooth


class Triggered(Fixed):
    """β keeps the posterior's noise within a band of the weights' size.

    R_raw is the metric `ratio`, median σ over median |θ|. The state has β, R_ema of all layers
    together and of each (`ema`), how often β rose and fell, and which way it went last.
    """

    def init(self, layers, scalars):
        names = ["ratio", *(f"ratio/{layer}" for layer in layers)]
        zero = jnp.zeros(())
        return {"beta": scalars["varshare.beta"], "ema": dict.fromkeys(names, zero),
                "ups": zero, "downs": zero, "direction": zero}

    def update(self, state, measured, scalars):
        ratios = {name: measured.metrics[name][0] for name in state["ema"]}
        ema = smooth(state["ema"], jax.lax.stop_gradient(ratios), scalars,
                     first=measured.update == 1)
        due = measured.update % self.settings.every == 0
        up = due & (ema["ratio"] > scalars["controller.ratio_max"])
        down = due & (ema["ratio"] < scalars["controller.ratio_min"])
        beta = state["beta"]
        raised = jnp.minimum(beta * scalars["controller.gamma_up"], scalars["controller.beta_max"])
        lowered = jnp.maximum(beta / scalars["controller.gamma_down"],
                              scalars["controller.beta_min"])
        return {"beta": jnp.where(up, raised, jnp.where(down, lowered, beta)), "ema": ema,
                "ups": state["ups"] + up, "downs": state["downs"] + down,
                "direction": up.astype(jnp.float32) - down}

    def state_metrics(self, state):
        averages = {name.replace("ratio", "ratio_ema", 1): r for name, r in state["ema"].items()}
        return averages | {f"trigger_{name}": state[name] for name in ("ups", "downs", "direction")}
