"""Seeds trained in one stack against each trained alone: the same draws, the same steps, the same runs."""

from __future__ import annotations

import signal
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from run_states import assert_runs_alike, metrics
from toy_worlds import Bandit, SavedDrift

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import BadWorld, ConfigError, Diverged, Stopped
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.rl.distributions import Choices, Gaussian, SquashedGaussian, side_by_side
from trueline.rl.networks import ActorCritic, ActorNetwork, Network
from trueline.rl.on_policy import Budgeted, Constrained, Limited, OnPolicy, OnPolicyRecipe, Trainer
from trueline.rl.policy import NetworkPolicy
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.rl.together import Stack, ascend_together
from trueline.rl.updates.focops import Focops
from trueline.rl.updates.p3o import P3o
from trueline.rl.updates.ppo import Ppo, RowByRow
from trueline.rl.updates.rows import Rows

ROWS, WIDTH, COSTS, SEEDS = 50, 4, 2, 3
SPACES = {
    "normal": (gym.spaces.Box(-1, 1, (2,)), False),
    "squashed": (gym.spaces.Box(-1, 1, (2,)), True),
    "choices": (gym.spaces.MultiDiscrete([3, 2]), False),
}


# --- updates, in float64, so that agreement is a matter of algebra and not of rounding ---


def actor_critic(seed: int, actions: str = "normal") -> ActorCritic:
    space, squashed = SPACES[actions]
    observation, action = ObservationCodec.of(gym.spaces.Box(-1, 1, (WIDTH,))), ActionCodec.of(space)
    actor, critic = ActorNetwork(hidden=(8, 5), squashed=squashed), Network(hidden=(7,), activation="relu")
    return ActorCritic(observation, action, COSTS, actor, critic, torch.Generator().manual_seed(seed)).double()


def some_batch(network: ActorCritic, seed: int) -> Rows[torch.Tensor]:
    rng = torch.Generator().manual_seed(100 + seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    inputs = {"vector": normal(ROWS, WIDTH)}
    with torch.no_grad():
        policy = network.policy(network.encoder(inputs)).detach()
        draw = policy.sample(rng)
        log_prob = policy.log_prob(draw) + 0.2 * normal(ROWS)
    return Rows(inputs, draw, log_prob, policy, normal(ROWS), 3.0 * normal(ROWS, 1 + COSTS))


class Seed:
    """A network, its optimiser with a step or two behind it, a batch, and a stream."""

    def __init__(self, seed: int, settings: RowByRow, actions: str) -> None:
        self.network = actor_critic(seed, actions)
        self.adam = settings.optimiser(self.network)
        self.rows = some_batch(self.network, seed)
        self.rng = torch.Generator().manual_seed(200 + seed)
        for _ in range(seed):  # bias corrections differ from seed to seed
            for grad in self.adam.grads:
                grad.fill_(0.1)
            self.adam.step(1.0)

    def numbers(self) -> dict[str, Any]:
        adam = {f"{name}/{g}": x for name in ("first", "second") for g, x in enumerate(getattr(self.adam, name))}
        return {**self.network.state_dict(), **adam, "steps": torch.tensor(self.adam.steps)}


UPDATES: dict[str, tuple[RowByRow, str]] = {
    "ppo": (Ppo(passes=6, minibatch=16, lr=3e-3, target_kl=0.002, entropy=0.01, grad_norm=0.5), "normal"),
    "ppo, squashed": (Ppo(passes=3, minibatch=16, lr=3e-3, target_kl=None, entropy=0.01), "squashed"),
    "ppo, choices": (Ppo(passes=6, minibatch=16, lr=1e-2, target_kl=0.01), "choices"),
    "policy gradient": (Ppo(passes=4, minibatch=50, lr=3e-3, clip=None), "normal"),
    "focops": (Focops(passes=6, minibatch=16, lr=3e-3, eta=0.05, critic_l2=0.05), "normal"),
}


@pytest.mark.parametrize("name", UPDATES)
def test_each_seed_of_a_stack_makes_the_update_it_would_make_alone(name: str) -> None:
    settings, actions = UPDATES[name]
    alone = [Seed(s, settings, actions) for s in range(SEEDS)]
    stacked = [Seed(s, settings, actions) for s in range(SEEDS)]
    expected = [settings.learn(one.network, one.adam, one.rows, 0.25, one.rng) for one in alone]
    for one in stacked:
        settings.set_rates(one.adam, 0.25)
    found = ascend_together(
        settings,
        [one.network for one in stacked],
        [one.adam for one in stacked],
        [one.rows for one in stacked],
        [one.rng for one in stacked],
    )
    for mine, theirs, one, other in zip(found, expected, stacked, alone, strict=True):
        for field in ("kl", "passes", "policy_loss", "value_loss", "entropy"):
            assert getattr(mine, field) == pytest.approx(getattr(theirs, field), rel=1e-6)  # sums are in float32
        for key, value in other.numbers().items():
            torch.testing.assert_close(one.numbers()[key], value, rtol=1e-9, atol=1e-11)
        assert torch.equal(one.rng.get_state(), other.rng.get_state())
    if name == "ppo":
        # Some ended early and the others went on: that they are still alike says that nobody touched them afterwards.
        assert len({report.passes for report in expected}) > 1


def test_the_losses_of_seeds_share_no_gradient() -> None:
    # Only the second seed has a loss: the others' gradients are exactly 0.
    seeds = [Seed(s, Ppo(), "normal") for s in range(SEEDS)]
    stack = Stack([one.network for one in seeds], [one.adam for one in seeds])
    x = torch.randn(SEEDS, 9, WIDTH, dtype=torch.float64)
    (stack.critics(x)[1].square().sum() + stack.policy(x).log_prob(torch.zeros(SEEDS, 9, 2))[1].sum()).backward()
    for grad in stack.grads:
        assert grad[[0, 2]].abs().max() == 0.0
        assert grad[1].abs().min() >= 0.0
        assert (grad[1] != 0.0).double().mean() > 0.5


@pytest.mark.parametrize("actions", SPACES)
def test_a_stack_computes_what_each_network_does(actions: str) -> None:
    seeds = [Seed(s, Ppo(), actions) for s in range(SEEDS)]
    stack = Stack([one.network for one in seeds], [one.adam for one in seeds])
    x = torch.randn(SEEDS, 9, WIDTH, dtype=torch.float64)
    policy, values = stack.policy(x), stack.critics(x)
    for s, one in enumerate(seeds):
        alone = one.network.policy(x[s])
        draw = alone.mode()
        for same in (policy.rows(s), stack.policy_of(s, x[s])):
            torch.testing.assert_close(same.mode(), draw)
            torch.testing.assert_close(same.log_prob(draw), alone.log_prob(draw))
        torch.testing.assert_close(values[s], one.network.values(x[s]))


def test_batches_side_by_side_keep_their_rows(torch_rng: torch.Generator) -> None:
    index = torch.tensor([[0, 3], [4, 6]])  # two of the first batch, two of the second
    for kind in (Gaussian, SquashedGaussian):
        parts = [kind(torch.randn(n, 2, generator=torch_rng), torch.randn(2, generator=torch_rng)) for n in (4, 3)]
        rows = side_by_side(parts).rows(index)
        for s, at in enumerate(([0, 3], [0, 2])):
            torch.testing.assert_close(rows.mean[s], parts[s].mean[at])
            torch.testing.assert_close(rows.log_std[s], parts[s].log_std.expand(2, 2))
    chances = [Choices.of(torch.randn(n, 5, generator=torch_rng), (3, 2)) for n in (4, 3)]
    rows = side_by_side(chances).rows(index)
    for s, at in enumerate(([0, 3], [0, 2])):
        for j in range(2):
            torch.testing.assert_close(rows.logits[j][s], chances[s].logits[j][at])


# --- whole trainings ---


TINY = {
    "env": "Together-Drift-v0",
    "num_envs": 2,
    "steps_per_epoch": 80,
    "total_steps": 320,
    "actor": {"hidden": [6]},
    "critic": {"hidden": [6]},
    "cost_limit": [1.0, 3.0],
    "update": {"passes": 6, "minibatch": 33, "lr": 4e-3, "target_kl": 0.01},
    "checkpoint_epochs": 2,
    "averaged_share": 0.5,
}
PPO_LAG = OnPolicyRecipe("ppo-lag", Constrained)


def drift(id: str, num_envs: int, threads: int = 1) -> SavedDrift:
    return SavedDrift(num_envs)


class Restarting(SavedDrift):
    """Drift that begins episodes in single rows, so that seeds share one world."""

    def begin(self, rows: Any, seeds: Any) -> Any:
        for i, seed in zip(rows, seeds, strict=True):
            self._begin(int(i), int(seed))
        return self._observe()


def restarting(id: str, num_envs: int, threads: int = 1) -> Restarting:
    return Restarting(num_envs)


def bandit(id: str, num_envs: int, threads: int = 1) -> Bandit:
    return Bandit(num_envs)


class Fragile(Restarting):
    """Its observations are no numbers any more once it was given a layout of a certain kind."""

    def _observe(self) -> Any:
        seen = super()._observe()
        return np.where((self.episode_seed % 64 == 3)[:, None], np.nan, seen).astype(np.float32)


def fragile(id: str, num_envs: int, threads: int = 1) -> Fragile:
    return Fragile(num_envs)


class Pictures(SavedDrift):
    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.observation_space = gym.spaces.Box(0, 255, (40, 40, 3), np.uint8)


def pictures(id: str, num_envs: int, threads: int = 1) -> Pictures:
    return Pictures(num_envs)


@pytest.fixture(autouse=True)
def _worlds() -> None:
    for name in ("drift", "restarting", "bandit", "fragile", "pictures"):
        registry.add(Entry("env", f"Together-{name.title()}-v0", f"test_together:{name}", "a toy"), "tests")


@pytest.fixture
def _float64() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def run_of(root: Any, config: Any, seed: int) -> Run:
    return Run.create(root, kind="train", name="ppo-lag", config=config, seed=seed, id=f"s{seed}")


def together(root: Any, config: Any, seeds: range, row: OnPolicyRecipe = PPO_LAG) -> list[Any]:
    runs = [run_of(root, config, seed) for seed in seeds]
    return closed(runs, row.train_together(config, runs, {}))


def closed(runs: list[Run], endings: list[Any]) -> list[Any]:
    for run, ending in zip(runs, endings, strict=True):
        run.finish("done" if isinstance(ending, NetworkPolicy) else "failed")
        run.close()
    return endings


def alone(root: Any, config: Any, seeds: range, row: OnPolicyRecipe = PPO_LAG) -> list[Any]:
    policies = []
    for seed in seeds:
        with run_of(root, config, seed) as run:
            policies.append(row.train(config, run, {}))
    return policies


CASES = {
    "ppo-lag": (PPO_LAG, {}),
    "focops": (OnPolicyRecipe("focops", Constrained, update=Focops()), {}),
    "saute": (OnPolicyRecipe("saute", Budgeted), {}),
    "chance": (PPO_LAG, {"limit_on": {"kind": "chance", "probability": 0.2}}),
    "disturbed": (PPO_LAG, {"disturbance": {"observation_noise": 0.1}}),
    "bandit": (PPO_LAG, {"env": "Together-Bandit-v0", "cost_limit": 0.3}),
    "one world": (PPO_LAG, {"env": "Together-Restarting-v0"}),
}


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("name", CASES)
def test_a_seed_trained_with_others_is_the_seed_trained_alone(name: str, tmp_path: Any) -> None:
    row, settings = CASES[name]
    config = build(row.Config, {**TINY, **settings})
    seeds = range(3, 6)
    expected, found = alone(tmp_path / "alone", config, seeds, row), together(tmp_path / "both", config, seeds, row)
    for seed, theirs, mine in zip(seeds, expected, found, strict=True):
        assert_runs_alike(tmp_path / "both" / f"s{seed}", tmp_path / "alone" / f"s{seed}", 1e-7, 1e-9)
        for key, x in theirs.network.state_dict().items():
            torch.testing.assert_close(mine.network.state_dict()[key], x, rtol=1e-7, atol=1e-9)
        assert mine.shape.keys() == theirs.shape.keys()
        assert mine.shape["layouts_met"] == theirs.shape["layouts_met"]
        own = {path.name for path in (tmp_path / "both" / f"s{seed}" / "artefacts").glob("*")}
        assert own == {path.name for path in (tmp_path / "alone" / f"s{seed}" / "artefacts").glob("*")}
    if name == "ppo-lag":
        passes = [[line["update/passes"] for line in metrics(tmp_path / "both" / f"s{seed}")] for seed in seeds]
        assert any(len(set(epoch)) > 1 for epoch in zip(*passes, strict=True))  # one left the stack before another


def test_in_single_precision_one_epoch_is_the_same_to_rounding(tmp_path: Any) -> None:
    # The published networks and minibatch on a short epoch: 4 minibatches of 64 in each of 3 passes.
    given = {"steps_per_epoch": 256, "total_steps": 256, "update": {"passes": 3}, "cost_limit": [1.0, 3.0]}
    config = build(PPO_LAG.Config, {**given, "env": "Together-Drift-v0"})
    seeds = range(3)
    alone(tmp_path / "alone", config, seeds)
    together(tmp_path / "both", config, seeds)
    for seed in seeds:
        # A tenth of one step of 3e-4: where a gradient is nearly 0, Adam divides rounding by rounding.
        assert_runs_alike(tmp_path / "both" / f"s{seed}", tmp_path / "alone" / f"s{seed}", 1e-3, 3e-5)


def test_evaluations_are_those_of_each_run(tmp_path: Any) -> None:
    given = {**TINY, "averaged_share": 0.0, "evaluation": {"every": 2, "episodes": 3, "final_episodes": 4}}
    config = build(PPO_LAG.Config, given)
    together(tmp_path, config, range(2))
    for seed in range(2):
        evaluated = [line["step"] for line in metrics(tmp_path / f"s{seed}") if "eval/return" in line]
        assert evaluated == [160, 320]
        assert (tmp_path / f"s{seed}" / "artefacts" / "best" / "best.json").exists()


def test_a_seed_whose_world_breaks_leaves_and_the_others_go_on(tmp_path: Any) -> None:
    config = build(PPO_LAG.Config, {**TINY, "env": "Together-Fragile-v0"})
    seeds = range(6)
    found = together(tmp_path / "both", config, seeds)
    broken = [seed for seed, ending in zip(seeds, found, strict=True) if isinstance(ending, BadWorld)]
    assert 0 < len(broken) < len(seeds)
    kept = next(seed for seed in seeds if seed not in broken)
    alone(tmp_path / "alone", config, range(kept, kept + 1))
    for mine, theirs in zip(
        metrics(tmp_path / "both" / f"s{kept}"), metrics(tmp_path / "alone" / f"s{kept}"), strict=True
    ):
        assert mine == pytest.approx(theirs, rel=2e-2, abs=1e-3)
    for seed in broken:
        assert len(metrics(tmp_path / "both" / f"s{seed}")) < 4


def test_a_seed_that_diverges_leaves_and_the_others_go_on(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Trainer.take_in

    def take_in(self: Trainer, batch: Any) -> Any:
        taken = original(self, batch)
        if self.run.seed == 1 and self.epoch == 1:
            taken.rows.advantage[3] = torch.nan
        return taken

    monkeypatch.setattr(Trainer, "take_in", take_in)
    found = together(tmp_path, build(PPO_LAG.Config, TINY), range(3))
    assert [type(ending) for ending in found] == [NetworkPolicy, Diverged, NetworkPolicy]
    assert [len(metrics(tmp_path / f"s{seed}")) for seed in range(3)] == [4, 1, 4]


def test_stopped_and_resumed_together_they_leave_the_same_bytes(tmp_path: Any, monkeypatch: Any) -> None:
    config, seeds = build(PPO_LAG.Config, TINY), range(2)
    together(tmp_path / "whole", config, seeds)
    original = Trainer.conclude

    def conclude(self: Trainer, *given: Any) -> str:
        if self.run.seed == 1 and self.epoch == 0:  # in the first epoch, when the first seed has concluded it already
            signal.raise_signal(signal.SIGTERM)
        return original(self, *given)

    monkeypatch.setattr(Trainer, "conclude", conclude)
    runs = [run_of(tmp_path / "stopped", config, seed) for seed in seeds]
    with runs[0].interruptible():
        endings = closed(runs, PPO_LAG.train_together(config, runs, {}))
    assert [type(ending) for ending in endings] == [Stopped, Stopped]
    monkeypatch.undo()
    runs = [Run.reopen(tmp_path / "stopped" / f"s{seed}") for seed in seeds]
    closed(runs, PPO_LAG.train_together(config, runs, {}))
    for seed in seeds:
        assert_runs_alike(tmp_path / "stopped" / f"s{seed}", tmp_path / "whole" / f"s{seed}", 0.0, 0.0)


class _Killed(Exception):
    pass


def killed(root: Any, config: Any, seed: int, epochs: int) -> None:
    """A run alone that ends without a word after so many epochs."""
    run = run_of(root, config, seed)
    trainer = Trainer(config, run, {})
    original = trainer.one_epoch

    def one_epoch() -> str:
        if trainer.epoch == epochs:
            raise _Killed
        return original()

    trainer.one_epoch = one_epoch  # type: ignore[method-assign]
    with pytest.raises(_Killed), run:
        trainer.train()


@pytest.mark.usefixtures("_float64")
def test_runs_killed_apart_are_brought_level(tmp_path: Any) -> None:
    config, seeds = build(PPO_LAG.Config, TINY), range(2)
    alone(tmp_path / "alone", config, seeds)
    for seed, epochs in zip(seeds, (3, 1), strict=True):  # checkpoints are of every second epoch: one is left with none
        killed(tmp_path / "killed", config, seed, epochs)
    runs = [Run.reopen(tmp_path / "killed" / f"s{seed}") for seed in seeds]
    closed(runs, PPO_LAG.train_together(config, runs, {}))
    for seed in seeds:
        assert_runs_alike(tmp_path / "killed" / f"s{seed}", tmp_path / "alone" / f"s{seed}", 1e-7, 1e-9)


@pytest.mark.parametrize(
    ("row", "settings", "words"),
    [
        (OnPolicyRecipe("p3o", Limited, update=P3o()), {}, "together by p3o, whose step is no mean over rows"),
        (PPO_LAG, {"memory": {"segment": 8}}, "together with a memory"),
        (PPO_LAG, {"env": "Together-Pictures-v0"}, "together on the pictures of Together-Pictures-v0"),
    ],
)
def test_what_cannot_be_stacked_is_refused_in_a_sentence(row: Any, settings: Any, words: str, tmp_path: Any) -> None:
    config = build(row.Config, {**TINY, **settings, "update": {}})
    with pytest.raises(ConfigError, match=words):
        row.check_together(config, tmp_path)


@pytest.mark.usefixtures("_float64")
def test_an_unconstrained_row_goes_together_too(tmp_path: Any) -> None:
    row, seeds = OnPolicyRecipe("ppo", OnPolicy), range(2)
    given = {name: value for name, value in TINY.items() if name != "cost_limit"}
    config = build(row.Config, {**given, "total_steps": 80})
    alone(tmp_path / "alone", config, seeds, row)
    together(tmp_path / "both", config, seeds, row)
    for seed in seeds:
        assert_runs_alike(tmp_path / "both" / f"s{seed}", tmp_path / "alone" / f"s{seed}", 1e-7, 1e-9)
