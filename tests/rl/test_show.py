"""A policy's film strip: the episode it tells of is the one the policy would have run anyway."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_worlds import Drift

from trueline.rl import show
from trueline.rl.networks import ActorCritic, ActorNetwork, Network
from trueline.rl.policy import NetworkPolicy, WorldRef
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.rl.worlds import make


@pytest.fixture
def policy(torch_rng: torch.Generator):
    world = make("SafetyPointGoal0-v0", 1)
    codec, actor, critic = ObservationCodec.of(world.observation_space), ActorNetwork(hidden=(4,)), Network(hidden=(4,))
    network = ActorCritic(codec, ActionCodec.of(world.action_space), 1, actor, critic, torch_rng)
    world.close()
    shape = {"actor": actor.model_dump(mode="json"), "critic": critic.model_dump(mode="json"), "costs": ["cost_sum"]}
    return NetworkPolicy(network, codec, WorldRef(id="SafetyPointGoal0-v0"), shape)


def test_the_strip_shows_six_moments_and_the_path_between_them(policy, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(show, "film_strip", lambda *args: drawn.update(zip("sct", args, strict=True)))
    monkeypatch.setattr(show, "png", lambda _: b"")
    monkeypatch.setattr(show, "FRAME_EVERY", 10**6)  # one frame: drawing more takes seconds
    show.show_policy(policy, 7, tmp_path)
    steps = [int(caption.split()[1].rstrip(":")) for caption in drawn["c"]]
    assert len(drawn["s"]) == len(drawn["t"]) == 6
    assert steps == [166, 333, 499, 666, 832, 999]
    assert [len(trail) for trail in drawn["t"]] == list(np.diff([0, *steps]))
    # Each trail ends where the agent stands in its panel.
    for scene, trail in zip(drawn["s"], drawn["t"], strict=True):
        agent = next(shape["xy"] for shape in scene["shapes"] if shape["kind"] == "arrow")
        np.testing.assert_allclose(trail[-1], agent)


def test_without_opengl_the_film_is_of_top_views(policy, tmp_path, monkeypatch):
    films = {}
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    monkeypatch.setattr(show, "video", lambda path, frames, fps: films.update({path.name: (list(frames), fps)}))
    monkeypatch.setattr(show, "png", lambda _: b"")
    monkeypatch.setattr(show, "FRAME_EVERY", 250)
    media = show.show_policy(policy, 7, tmp_path)
    assert [item["file"] for item in media] == ["seed-7.mp4", "seed-7.png"]
    frames, _ = films["seed-7.mp4"]
    assert len(frames) == 1000 // 250
    # The goal, translucent green on white, is where the layout has it.
    world = make("SafetyPointGoal0-v0", 1)
    world.reset(np.array([7], np.uint32))
    x, y = world.layout(0)["goal"][0]
    world.close()
    row, column = (round(show.SIZE * (0.5 + part / 2)) for part in (-y, x))  # the view is 2 m wide
    assert frames[0][row, column].tolist() == [191, 255, 191]


def test_a_world_that_cannot_be_seen_gives_no_picture(policy, tmp_path, monkeypatch):
    monkeypatch.setattr("trueline.rl.worlds.make", lambda *_args, **_options: Drift(1))
    assert show.show_policy(policy, 7, tmp_path) == []
