"""A pool that trains nothing: scores are a known function of the learning rate."""

import math
import os
import signal
import time

import numpy as np

from varshare_jax.experiments.search.pool import Round

STEPS = 100  # of an evaluation


def score(rate: float, number: int, last: int) -> float:
    """Best at a learning rate of 0.01, and the better the longer it has trained."""
    return (10 - abs(math.log10(rate) + 2)) * number / last


class FakePool:
    """Stands in for `Pool`. Settings of the class: who is killed when, how long a round takes."""

    made = 0
    rounds = 0
    killed_at = 0  # 0: never
    terminated_at = 0
    meeting = None  # a file: written by who is about to be killed, awaited by the others
    seconds = 0.0
    diverging = 1.0  # learning rates above it do

    def __init__(self, config, places, evaluations, progress):
        type(self).made += 1
        self.config, self.places, self.last = config, places, evaluations
        self.busy: dict[int, list] = {}

    def free(self):
        return [place for place in range(self.places) if place not in self.busy]

    def fill(self, place, scalars):
        assert place not in self.busy
        self.busy[place] = [scalars["ppo.learning_rate"], 0]

    def leave(self, place):
        del self.busy[place]

    def advance(self, asked):
        assert self.busy
        type(self).rounds += 1
        if self.rounds == self.killed_at:
            if self.meeting:
                self.meeting.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.rounds == self.terminated_at:
            os.kill(os.getpid(), signal.SIGTERM)
        while self.meeting and not self.killed_at and not self.meeting.exists():
            time.sleep(0.05)
        time.sleep(self.seconds)
        found = {}
        for place, trial in self.busy.items():
            trial[1] += 1
            rate, number = trial
            returns = np.full((2, 3), score(rate, number, self.last))
            diverged = 7 if rate > self.diverging else None
            found[place] = Round(number, returns, number * STEPS, diverged)
        return found
