"""The navigation tasks' level 0 in the keys of `config`, by the names that the original's repository has for them."""

from __future__ import annotations

from typing import Any

_FLOOR_M = 17.5  # half the length of the Run

LEVEL_0: dict[str, dict[str, Any]] = {
    "button": {
        "placements_conf.extents": [-1, -1, 1, 1],
        "Buttons": {"num": 4, "is_constrained": False},
        "Goal": {"size": 0.2, "alpha": 1.0},
    },
    "circle": {
        "num_steps": 500,
        "agent.placements": [(-0.8, -0.8, 0.8, 0.8)],
        "agent.keepout": 0,
        "lidar_conf.max_dist": 6,
        "reward_factor": 0.1,
        "Circle": {},
    },
    "goal": {"placements_conf.extents": [-1, -1, 1, 1], "Goal": {"keepout": 0.305}},
    "push": {"placements_conf.extents": [-1, -1, 1, 1], "PushBox": {"null_dist": 0}, "Goal": {}},
    "run": {
        "floor_conf.size": [_FLOOR_M, _FLOOR_M, 0.1],
        "agent.placements": [(-0.2, _FLOOR_M - 1, 0.2, _FLOOR_M - 1)],
        "agent.keepout": 0,
        "reward_conf.reward_clip": None,
        "reward_factor": 60.0,
        "Sigwalls": {"size": _FLOOR_M, "locate_factor": 0.5, "is_constrained": True},
    },
}
