"""Softmax bandit by exact gradient; the constrained row puts rl's multiplier on the expected harm."""

import torch

from trueline.core.config import Config
from trueline.rl.handlers.constraint import mix
from trueline.rl.handlers.lagrange import Lagrangian
from trueline_bandit.arms import HARM, SUCCESS
from trueline_bandit.player import Player


class Free(Config):
    steps: int = 400


class Limited(Free):
    cost_limit: float = 0.3


class Bandit:
    def __init__(self, config):
        self.Config, self.presets = config, {}

    def train(self, config, run, inputs):
        reward, harm, dual = torch.tensor(SUCCESS), torch.tensor(HARM)[:, None], Lagrangian(rule="sgd", lr=0.1)
        limit = torch.tensor([getattr(config, "cost_limit", 1.0)])  # no harm exceeds 1: nothing to hold back
        s = run.restore() or {"t": 0, "logits": 0 * reward, "mean": 0 * reward, "dual": dual.start(1)}
        for t in range(s["t"] + 1, config.steps + 1):
            p, mean = s["logits"].softmax(0), s["mean"]
            state = dual.update(s["dual"], (p @ harm)[None], limit)
            step = 0.5 * p * mix(reward - p @ reward, harm - p @ harm, dual.weights(state))
            s = {"t": t, "logits": s["logits"] + step, "mean": mean + (p - mean) / t, "dual": state}
            run.log(t, **{"train/reward": p @ reward, "train/harm": p @ harm[:, 0]})
            if t % 50 == 0:
                run.save(t, s)
        return Player(tuple(s["mean"].tolist()), run.id)


FREE, CONSTRAINED = Bandit(Free), Bandit(Limited)
