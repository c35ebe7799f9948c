"""Exported policies: equal to the policy they come from, in NumPy alone and in what an ONNX exporter is given."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from offline_cases import trained_on_actions

from trueline.core.errors import ConfigError, MissingExtra
from trueline.rl import worlds
from trueline.rl.export import ActorModule, actor_of, export, export_onnx, noise_width
from trueline.rl.exported import Policy
from trueline.rl.networks import ActorCritic, ActorNetwork, Network
from trueline.rl.off_policy.networks import ActorQ, QNetwork, QPolicy, Shape, described
from trueline.rl.policy import NetworkPolicy, WorldRef
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.safety.recipes.offline import VAE_BC

BOX = gym.spaces.Box(-np.inf, np.inf, (5,), np.float32)
DICT = gym.spaces.Dict({"point": BOX, "half": gym.spaces.Discrete(2), "two": gym.spaces.MultiDiscrete([3, 2])})
ACTIONS = {
    "continuous": gym.spaces.Box(-1.0, 1.0, (3,), np.float32),
    "choice": gym.spaces.Discrete(4),
    "choices": gym.spaces.MultiDiscrete([3, 2]),
    "wide": gym.spaces.Box(-2.0, 2.0, (3,), np.float32),
    "uneven": gym.spaces.Box(np.array([0.0, -np.inf, -3.0]), np.array([1.0, np.inf, 0.1]), dtype=np.float64),
    "matrix": gym.spaces.Box(-4.0, 2.0, (3, 1), np.float32),
    "from two": gym.spaces.Discrete(4, start=2),
    "table": gym.spaces.MultiDiscrete([[3], [2]], start=[[1], [5]]),
}


class Own(gym.Env):
    """What a user trains in: it remembers the actions it is given."""

    given = None  # what the last step of any copy was given

    def __init__(self, action="continuous", several=False):
        self.action_space, self.observation_space = ACTIONS[action], DICT if several else BOX

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        Own.given = action
        return self.observation_space.sample(), 0.0, False, False, {}


gym.register("ExportOwn-v0", Own, max_episode_steps=5)


def world(action, observation=BOX):
    return WorldRef(id="ExportOwn-v0", options={"action": action, "several": observation is DICT})


def spread(network, rng):
    """The network with weights and statistics that training could have come to."""
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=rng))
    if network.encoder.norm is not None:
        width = len(network.encoder.norm.mean)
        network.encoder.norm.update(3.0 + 2.0 * torch.randn(200, width, generator=rng))
    return network


def on_policy(torch_rng, observation=BOX, action="continuous", **actor):
    ref = world(action, observation)
    codec, taken = ObservationCodec.of(observation), ActionCodec.of(worlds.of(ref).action_space)
    settings = ActorNetwork(hidden=(16, 16), **actor)
    network = ActorCritic(codec, taken, 1, settings, Network(hidden=(4,)), torch_rng)
    shape = {"actor": settings.model_dump(mode="json"), "critic": {}, "costs": ["c"]}
    return NetworkPolicy(spread(network, torch_rng), codec, ref, shape)


def off_policy(torch_rng, action="continuous", stochastic=True, normalise=False, activation="relu"):
    codec, taken = ObservationCodec.of(BOX), ActionCodec.of(ACTIONS[action])
    net = QNetwork(hidden=(16, 16), activation=activation)
    shape = Shape(2, ("c",), net, QNetwork(hidden=(4,)), stochastic, normalise)
    return QPolicy(spread(ActorQ(codec, taken, shape, torch_rng), torch_rng), codec, world(action), described(shape))


POLICIES = {
    "gaussian tanh": lambda rng: on_policy(rng),
    "gaussian silu": lambda rng: on_policy(rng, activation="silu", log_std=-0.5),
    "squashed relu": lambda rng: on_policy(rng, activation="relu", squashed=True),
    "no hidden layer": lambda rng: on_policy(rng, observation=DICT),
    "choice": lambda rng: on_policy(rng, action="choice"),
    "choices": lambda rng: on_policy(rng, action="choices", observation=DICT),
    "sac": lambda rng: off_policy(rng),
    "sac, normalised": lambda rng: off_policy(rng, normalise=True, activation="tanh"),
    "sac, one choice": lambda rng: off_policy(rng, action="choice"),
    "td3": lambda rng: off_policy(rng, stochastic=False),
}


@pytest.fixture(params=POLICIES)
def policy(request, torch_rng):
    return POLICIES[request.param](torch_rng)


def observations(policy, rng, n=257):
    point = rng.normal(3.0, 4.0, (n, 5)).astype(np.float32)  # far enough out to be clipped after normalising
    if len(policy.observation.parts) == 1:
        return point
    return {"point": point, "half": rng.integers(2, size=n), "two": rng.integers([3, 2], size=(n, 2))}


def acted(policy, obs, rng, deterministic=True):
    """The policy's actions as a world takes them: within [-1, 1]."""
    action = policy.act(obs, None, rng, deterministic=deterministic)[0]
    return action.clip(-1.0, 1.0) if policy.network.action.kind == "continuous" else action


def test_the_runner_acts_as_the_policy(policy, tmp_path, rng):
    out, runner = export(policy, tmp_path / "policy.npz")
    obs = observations(policy, rng)
    ours = acted(policy, obs, rng)
    theirs = Policy(out).act(obs)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-6)
    assert runner.read_text().startswith('"""Runs a policy that Trueline exported')


def test_draws_of_the_runner_have_the_policys_distribution(policy, tmp_path, rng):
    exported = Policy(export(policy, tmp_path / "policy.npz")[0])
    one = {k: v[:1] for k, v in obs.items()} if isinstance(obs := observations(policy, rng), dict) else obs[:1]
    many = {k: np.repeat(v, 20_000, axis=0) for k, v in one.items()} if isinstance(one, dict) else one.repeat(20_000, 0)
    ours = np.asarray(acted(policy, many, rng, deterministic=False), np.float64).reshape(20_000, -1)
    theirs = np.asarray(exported.act(many, rng), np.float64).reshape(20_000, -1)
    for column in range(ours.shape[1]):
        a, b = ours[:, column], theirs[:, column]
        five_errors = 5.0 * np.sqrt((a.var() + b.var()) / 20_000) + 1e-6
        assert abs(a.mean() - b.mean()) <= five_errors
        assert b.std() == pytest.approx(a.std(), rel=0.05, abs=1e-6)


def test_the_copied_runner_needs_numpy_and_nothing_else(tmp_path, torch_rng, rng):
    policy = on_policy(torch_rng)
    export(policy, tmp_path / "own.npz")
    obs = observations(policy, rng, 4)
    np.save(tmp_path / "obs.npy", obs)
    code = (
        "import sys, numpy as np, own; "
        "print(own.Policy('own.npz').act(np.load('obs.npy')).tolist()); "
        "assert 'torch' not in sys.modules and 'trueline' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = acted(policy, obs, rng)
    np.testing.assert_allclose(json.loads(said.stdout), expected, rtol=0, atol=1e-6)


def test_the_file_is_the_same_again_and_says_what_it_is_of(tmp_path, torch_rng):
    policy = on_policy(torch_rng)
    first, second = (export(policy, tmp_path / name)[0].read_bytes() for name in ("a.npz", "b.npz"))
    assert first == second
    meta = Policy(tmp_path / "a.npz").meta
    assert meta["world"]["id"] == "ExportOwn-v0"
    assert meta["observation"] == [["", "box", [5]]]


# --- units ---

OWN_UNITS = {
    "gaussian": lambda rng: on_policy(rng, action="wide"),
    "uneven, one without bounds": lambda rng: on_policy(rng, action="uneven"),
    "matrix, squashed": lambda rng: on_policy(rng, action="matrix", squashed=True),
    "choice from two": lambda rng: on_policy(rng, action="from two"),
    "table of choices": lambda rng: on_policy(rng, action="table"),
    "sac": lambda rng: off_policy(rng, action="wide"),
    "td3": lambda rng: off_policy(rng, action="wide", stochastic=False),
}


@pytest.mark.parametrize("name", OWN_UNITS)
def test_actions_are_those_that_the_trained_policy_gives_the_environment_itself(name, tmp_path, torch_rng, rng):
    policy = OWN_UNITS[name](torch_rng)
    exported = Policy(export(policy, tmp_path / "policy.npz")[0])
    actor = actor_of(policy)
    env = worlds.of(policy.world)
    space = env.envs[0].action_space
    env.reset()
    for obs in rng.normal(3.0, 4.0, (20, 1, 5)).astype(np.float32):
        env.step(policy.act(obs, None, rng, deterministic=True)[0])
        found = exported.act(obs)
        np.testing.assert_allclose(found[0], Own.given, rtol=0, atol=1e-5)
        module = ActorModule(actor)(torch.from_numpy(obs), torch.zeros(1, noise_width(actor)))
        np.testing.assert_allclose(module[0].numpy(), np.ravel(Own.given), rtol=0, atol=1e-5)
    drawn = exported.act(rng.normal(3.0, 4.0, (500, 5)).astype(np.float32), rng)
    # A single choice is a NumPy number, which a Discrete knows as its own.
    assert all(space.contains(action) for action in drawn)
    if name == "gaussian":
        assert np.abs(drawn).max() == 2.0  # drawn beyond the bounds, and clipped


# --- ONNX ---


def rows_of(policy, obs):
    return torch.from_numpy(policy.observation.encode(obs)["vector"])


def test_what_the_exporter_is_given_acts_as_the_policy(policy, rng):
    actor = actor_of(policy)
    obs = observations(policy, rng)
    rows = rows_of(policy, obs)
    with torch.no_grad():
        found = ActorModule(actor)(rows, torch.zeros(len(rows), noise_width(actor))).numpy()
    ours = acted(policy, obs, rng).reshape(len(rows), -1)
    np.testing.assert_allclose(found, ours, rtol=0, atol=1e-6)


def test_noise_moves_continuous_actions_by_the_deviation_and_turns_scores_into_draws(torch_rng, rng):
    gaussian = on_policy(torch_rng, log_std=-3.0)
    with torch.no_grad():
        gaussian.network.actor.biases[-1].zero_()
        gaussian.network.actor.weights[-1].mul_(0.1)
    actor, rows = actor_of(gaussian), torch.zeros(7, 5)
    module, noise = ActorModule(actor), torch.randn(7, 3, generator=torch_rng)
    moved = module(rows, noise) - module(rows, torch.zeros(7, 3))
    assert module(rows, noise).abs().max() < 1.0  # nothing is clipped
    torch.testing.assert_close(moved, noise * gaussian.network.log_std.exp())
    choice = ActorModule(actor_of(on_policy(torch_rng, action="choice")))
    push = torch.zeros(7, 4)
    push[:, 2] = 1e6
    assert choice(rows, push).tolist() == [[2]] * 7


def test_the_module_can_be_traced_with_any_number_of_rows(policy, rng):
    actor = actor_of(policy)
    module = ActorModule(actor).eval()
    example = torch.zeros(2, len(actor.shift)), torch.zeros(2, noise_width(actor))
    dim = torch.export.Dim("rows")
    traced = torch.export.export(module, example, dynamic_shapes=({0: dim}, {0: dim})).module()
    rows = rows_of(policy, observations(policy, rng, 9))
    noise = torch.zeros(9, noise_width(actor))
    torch.testing.assert_close(traced(rows, noise), module(rows, noise))


def test_onnx_without_its_packages_is_one_sentence(tmp_path, torch_rng, monkeypatch):
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else known(name))
    with pytest.raises(MissingExtra, match=r"writing ONNX needs the extra 'export'"):
        export(on_policy(torch_rng), tmp_path / "policy.onnx")
    assert not (tmp_path / "policy.onnx").exists()


def test_an_onnx_runtime_acts_as_the_policy(policy, tmp_path, rng):
    import onnxruntime as runtime

    session = runtime.InferenceSession(str(export_onnx(policy, tmp_path / "policy.onnx")))
    obs = observations(policy, rng, 9)
    rows, noise = rows_of(policy, obs).numpy(), np.zeros((9, noise_width(actor_of(policy))), np.float32)
    (found,) = session.run(None, {"vector": rows, "noise": noise})
    ours = acted(policy, obs, rng).reshape(9, -1)
    np.testing.assert_allclose(found, ours, rtol=0, atol=1e-5)


# --- what has no exported form ---


def test_what_cannot_be_exported_is_refused_with_its_reason(tmp_path, torch_rng):
    with pytest.raises(ConfigError, match=r"ends in '\.pt', but should end in \.npz or \.onnx"):
        export(on_policy(torch_rng), tmp_path / "policy.pt")
    with pytest.raises(ConfigError, match="a 'text' is not one network"):
        export(SimpleNamespace(kind="text"), tmp_path / "policy.npz")
    picture = gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)
    with pytest.raises(ConfigError, match="sees pictures"):
        export(on_policy(torch_rng, observation=picture), tmp_path / "policy.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_generates_its_actions_has_no_exported_form(tmp_path):
    steps = {"total_steps": 2, "steps_per_epoch": 2, "update": {"batch": 4}}
    policy = trained_on_actions(tmp_path, VAE_BC, np.linspace(-1.0, 1.0, 8), steps)
    with pytest.raises(ConfigError, match="generates its actions"):
        export(policy, tmp_path / "policy.npz")
