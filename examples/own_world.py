"""A world that Safety-Gymnasium does not have: goals among puddles and circling gremlins, with a cost for each.

python examples/own_world.py
"""

import numpy as np

from trueline.safety.worlds import World, open_world
from trueline.safety.worlds.agents import POINT
from trueline.safety.worlds.costs import Inside, Touching
from trueline.safety.worlds.objects import goal, gremlins, hazards
from trueline.safety.worlds.tasks import ReachGoal

WORLD = World(
    POINT,
    ReachGoal(),
    extent_m=1.8,
    things=(goal(keepout_m=0.305), hazards(5, radius_m=0.25), gremlins(3)),
    rules=(Inside("cost_puddles", "hazards", 0.25), Touching("cost_gremlins", "gremlins")),
)

if __name__ == "__main__":
    env = open_world("Puddles-v0", WORLD, num_envs=8, costs="split")
    env.reset(np.arange(8, dtype=np.uint32))
    rng, total = np.random.default_rng(0), np.zeros(2)
    for _ in range(env.max_episode_steps):
        total += env.step(rng.uniform(-1, 1, (8, 2))).cost.sum(axis=0)
    print({name: int(count) for name, count in zip(env.costs, total, strict=True)})
