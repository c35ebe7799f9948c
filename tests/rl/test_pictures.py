"""On-policy rows on pictures: derivatives through convolutions, who moves the encoder, a game of known optimum."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.rl import blocks
from trueline.rl.adam import FlatAdam
from trueline.rl.distributions import Choices
from trueline.rl.env import Step
from trueline.rl.handlers.constraint import Weights
from trueline.rl.networks import ActorCritic, ActorNetwork, Encoder, Mlp, Network, StackedMlp
from trueline.rl.on_policy import OnPolicyRecipe
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.rl.updates.cup import Cup, of_policy
from trueline.rl.updates.fisher import LocalPolicy
from trueline.rl.updates.focops import Focops
from trueline.rl.updates.natural import Natural, Trpo
from trueline.rl.updates.p3o import P3o
from trueline.rl.updates.ppo import Ppo, ascend
from trueline.rl.updates.rows import Rows, SlackAdvantage, WeightedAdvantage
from trueline.safety.recipes import augmented, first_order, ppo, trust_region
from trueline.safety.recipes.augmented import TRPO_SAUTE
from trueline.safety.recipes.first_order import CUP
from trueline.safety.recipes.trust_region import CPO, TRPO

ROWS, COSTS = 7, 2
ACTIONS: dict[str, Any] = {
    "box": gym.spaces.Box(-1, 1, (3,)),
    "choice": gym.spaces.Discrete(3),
    "choices": gym.spaces.MultiDiscrete([3, 2]),
}
SPACE = gym.spaces.Dict({"eye": gym.spaces.Box(0, 255, (36, 36, 2), np.uint8), "speed": gym.spaces.Box(-1, 1, (2,))})


def tiny(action: str, rng: torch.Generator) -> tuple[ActorCritic, dict[str, Tensor]]:
    """A network of some 150 parameters that sees a picture of 6 by 6 beside two numbers, and its inputs [ROWS]."""
    found = ActorCritic(
        ObservationCodec.of(SPACE), ActionCodec.of(ACTIONS[action]), COSTS, ActorNetwork(), Network(), rng
    )
    eye = found.encoder.pictures["image_eye"]
    shapes = [(3, 2, 3, 3), (2, 3, 2, 2)]  # 6 by 6, then 2 by 2, then 1 by 1
    eye.kernels = nn.ParameterList(
        [nn.Parameter(torch.randn(s, generator=rng) / np.prod(s[1:]) ** 0.5) for s in shapes]
    )
    eye.biases = nn.ParameterList([nn.Parameter(0.1 * torch.randn(s[0], generator=rng)) for s in shapes])
    eye.strides, eye.out = [2, 1], Mlp(2, 4, Network(hidden=()), rng)
    found.actor = Mlp(6, found.action.outputs, ActorNetwork(hidden=(5,)), rng)
    found.critics = StackedMlp(1 + COSTS, 6, 1, Network(hidden=(4,)), rng)
    inputs = {
        "vector": torch.randn(ROWS, 2, generator=rng),
        "image/eye": torch.randint(0, 256, (ROWS, 6, 6, 2), generator=rng, dtype=torch.uint8),
    }
    return found, inputs


def whole(action: str, rng: torch.Generator, rows: int = ROWS) -> tuple[ActorCritic, dict[str, Tensor]]:
    """The network as recipes make it, and its inputs."""
    shape: dict[str, Any] = {"hidden": (8,)}
    codec = ObservationCodec.of(SPACE)
    found = ActorCritic(codec, ActionCodec.of(ACTIONS[action]), COSTS, ActorNetwork(**shape), Network(**shape), rng)
    inputs = {
        "vector": torch.randn(rows, 2, generator=rng),
        "image/eye": torch.randint(0, 256, (rows, 36, 36, 2), generator=rng, dtype=torch.uint8),
    }
    return found, inputs


def policy_parameters(network: ActorCritic) -> list[nn.Parameter]:
    """In the order of `LocalPolicy`."""
    last = [] if network.log_std is None else [network.log_std]
    return [*network.actor.parameters(), *network.encoder.parameters(), *last]


def flat(parts: Any) -> Tensor:
    return torch.cat([part.detach().flatten() for part in parts])


# --- derivatives ---


def of_output(network: ActorCritic, output: Tensor) -> Tensor:
    """The KL's Hessian in one row's output [O]: 1/σ² for means, diag(p) − ppᵀ for each choice.  [O, O] in float64."""
    if network.log_std is not None:
        return torch.diag((-2.0 * network.log_std.detach().double()).exp())
    shares = [part.double().softmax(0) for part in output.split(list(network.action.sizes))]
    return torch.block_diag(*[torch.diag(p) - torch.outer(p, p) for p in shares])


def dense_fisher(network: ActorCritic, inputs: dict[str, Tensor]) -> Tensor:
    """The mean of JᵀFJ over rows, J of one output of one row at a time; 2 for each log σ, whose KL is in no output."""
    body = [*network.actor.parameters(), *network.encoder.parameters()]
    total: Tensor | float = 0.0
    for row in range(ROWS):
        output = network.actor(network.encoder({name: x[row : row + 1] for name, x in inputs.items()}))[0]
        j = torch.stack([flat(torch.autograd.grad(o, body, retain_graph=True)) for o in output]).double()
        total = total + j.T @ of_output(network, output.detach()) @ j / ROWS
    assert isinstance(total, Tensor)
    return total if network.log_std is None else torch.block_diag(total, 2.0 * torch.eye(len(network.log_std)))


@pytest.mark.parametrize("action", ACTIONS)
def test_products_through_convolutions_are_with_the_dense_fisher_matrix(
    action: str, torch_rng: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "NUMBERS_AT_ONCE", 4 * 72)  # blocks of 4 and 3 rows
    network, inputs = tiny(action, torch_rng)
    local, exact = LocalPolicy(network, inputs), dense_fisher(network, inputs)
    assert [len(block["vector"]) for block in local.linear.blocks] == [4, 3]
    found = local.fisher_product(torch.eye(len(exact), dtype=torch.float64))
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6 * float(exact.max()))
    convolutions = slice(len(flat(network.actor.parameters())), None)
    assert found[convolutions, convolutions].abs().max() > 1e-3  # what the test would miss if nothing reached them
    assert torch.linalg.eigvalsh((found + found.T) / 2.0).min() > -1e-6 * float(exact.max())


@pytest.mark.parametrize("action", ACTIONS)
def test_gradients_go_through_the_convolutions(action: str, torch_rng: torch.Generator) -> None:
    network, inputs = tiny(action, torch_rng)
    local = LocalPolicy(network, inputs)
    draw, weight = local.policy.detach().sample(torch_rng), torch.randn(ROWS, 2, generator=torch_rng)
    found = local.gradients(lambda policy: [(policy.log_prob(draw) * w).mean() for w in weight.unbind(1)])
    log_prob = network.policy(network.encoder(inputs)).log_prob(draw)
    for gradient, w in zip(found, weight.unbind(1), strict=True):
        exact = torch.autograd.grad((log_prob * w).mean(), policy_parameters(network), retain_graph=True)
        torch.testing.assert_close(gradient.float(), flat(exact), rtol=1e-4, atol=1e-7)


# --- updates ---


def some_rows(network: ActorCritic, inputs: dict[str, Tensor], takes: str, rng: torch.Generator) -> Rows[Any]:
    """Noise, drawn by the policy as it stands, with the advantage that such an update takes; both limits violated."""
    with torch.no_grad():
        policy = network.policy(network.encoder(inputs)).detach()
    draw = policy.sample(rng)
    size = len(draw)
    reward, cost = torch.randn(size, generator=rng), torch.randn(size, COSTS, generator=rng)
    advantage: dict[str, Any] = {
        "mixed": reward,
        "weights": WeightedAdvantage(reward, cost, Weights(torch.tensor(1.0), torch.tensor([0.5, 0.2])), 0.99, 0.95),
        "slack": SlackAdvantage(reward, cost, torch.tensor([0.3, 0.2])),
    }
    target = 3.0 * torch.randn(size, 1 + COSTS, generator=rng)
    return Rows(inputs, draw, policy.log_prob(draw), policy, advantage[takes], target)


def learnt(update: Any, network: ActorCritic, batch: Rows[Any]) -> tuple[Any, FlatAdam]:
    adam = update.optimiser(network)
    return update.learn(network, adam, batch, 0.0, torch.Generator().manual_seed(0)), adam


def policy_of(network: ActorCritic, batch: Rows[Any]) -> Any:
    with torch.no_grad():
        return network.policy(network.encoder(batch.inputs))


EVERY_ROW = [getattr(module, name) for module in (ppo, first_order, trust_region, augmented) for name in module.__all__]


@pytest.mark.parametrize("row", [row for row in EVERY_ROW if isinstance(row, OnPolicyRecipe)], ids=lambda row: row.name)
def test_every_row_moves_the_encoder_and_reports_the_kl_of_what_it_left(row: Any, torch_rng: torch.Generator) -> None:
    update = build(row.Config, {"update": {"passes": 2, "minibatch": 16}, "cost_gamma": 0.99}).update
    network, inputs = whole("choice", torch_rng, 24)
    batch = some_rows(network, inputs, update.takes, torch_rng)
    kernels, critics = flat(network.encoder.parameters()), flat(network.critics.parameters())
    report, _ = learnt(update, network, batch)
    assert not torch.equal(flat(network.encoder.parameters()), kernels)
    assert not torch.equal(flat(network.critics.parameters()), critics)
    if not isinstance(update, Cup):  # whose second KL is of the policy between its steps
        kl = float(batch.policy.kl(policy_of(network, batch)).mean())
        assert report.kl == pytest.approx(kl, rel=1e-3, abs=1e-6)
    if isinstance(update, Natural):
        assert 0.0 < report.kl < 1.2 * update.target_kl  # NPG's is δ to second order


# What each update's first step ascends where the policy has not moved: the mean of W·log π, W by row.
FIRST_STEP: dict[str, Any] = {
    "clipped": (Ppo(), lambda a: a),
    "plain": (Ppo(clip=None), lambda a: a),
    "focops": (Focops(lam=1.5), lambda a: a / 1.5),
    "p3o": (P3o(kappa=20.0), lambda a: a.reward - 20.0 * a.cost.sum(-1)),
}


@pytest.mark.parametrize("name", FIRST_STEP)
def test_a_first_order_step_takes_the_encoder_along_the_policys_and_the_critics_loss(
    name: str, torch_rng: torch.Generator
) -> None:
    start, weight = FIRST_STEP[name]
    update = start.model_copy(update={"passes": 1, "minibatch": ROWS, "grad_norm": 1e9})
    network, inputs = tiny("box", torch_rng)
    batch = some_rows(network, inputs, update.takes, torch_rng)
    features = network.encoder(inputs)
    gain = (weight(batch.advantage) * network.policy(features).log_prob(batch.draw)).mean()
    error = (network.values(features) - batch.target).square().mean(0).sum()
    actor = [*network.actor_parameters(), *network.encoder.parameters()]
    expected = flat(torch.autograd.grad(error - gain, actor))
    _, adam = learnt(update, network, batch)
    torch.testing.assert_close(adam.grads[0][0], expected, rtol=1e-4, atol=1e-6)


def test_critics_of_a_second_order_update_read_the_encoder_after_its_step_and_never_move_it(
    torch_rng: torch.Generator,
) -> None:
    settings: dict[str, Any] = {"minibatch": ROWS, "critic_l2": 0.0, "grad_norm": 1e9, "cg_damping": 0.01}
    network, inputs = tiny("choice", torch_rng)
    alone = copy.deepcopy(network)
    batch = some_rows(network, inputs, "mixed", torch_rng)
    before = network.encoder(inputs).detach()
    learnt(Trpo(passes=0, **settings), alone, batch)
    features = alone.encoder(inputs).detach()
    assert (features - before).abs().max() > 1e-3
    (alone.values(features) - batch.target).square().mean(0).sum().backward()
    expected = flat([p.grad for p in alone.critics.parameters()])
    _, adam = learnt(Trpo(passes=1, **settings), network, batch)
    assert torch.equal(flat(policy_parameters(network)), flat(policy_parameters(alone)))
    (found,) = adam.grads  # one row a critic
    by_parameter = found.split([p[0].numel() for p in network.critics.parameters()], dim=1)
    torch.testing.assert_close(flat(by_parameter), expected, rtol=1e-4, atol=1e-6)


def test_cups_projection_takes_the_critics_along_with_the_encoder(torch_rng: torch.Generator) -> None:
    # No reward to gain and every value as it should be: the first step all but stands still, and the second moves the
    # encoder. Left alone meanwhile, critics would say something else of the same pictures.
    update = Cup(passes=60, minibatch=12, lr=1e-3, critic_lr=1e-3, target_kl=None, critic_l2=0.0, horizon=1)
    network, inputs = whole("choice", torch_rng, 12)
    batch = some_rows(network, inputs, "weights", torch_rng)
    batch.advantage = batch.advantage._replace(reward=torch.zeros(12))
    with torch.no_grad():
        batch.target = network.values(network.encoder(inputs))
    left, reward, cost = copy.deepcopy(network), batch.advantage.weights.reward, batch.advantage.weights.cost
    report, _ = learnt(update, network, batch)
    assert report.value_loss < 1e-4

    def saved(policy: Any, rows: Tensor) -> Tensor:
        ratio = (policy.log_prob(batch.draw[rows]) - batch.log_prob[rows]).exp()
        return (
            -(ratio * (batch.advantage.cost[rows] @ (cost / reward))).mean() - policy.kl(batch.policy.rows(rows)).mean()
        )

    rng = torch.Generator().manual_seed(0)
    ascend(update, left, of_policy(update.optimiser(left)), batch, saved, rng, values=False)
    with torch.no_grad():
        error, drift = (float((n.values(n.encoder(inputs)) - batch.target).square().mean()) for n in (network, left))
    assert policy_of(network, batch).kl(batch.policy).mean() > 0.01
    assert error < 0.1 * drift


# --- memory ---


def test_blocks_hold_all_rows_in_order_and_no_more_numbers_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {"vector": torch.arange(10.0)[:, None], "image/eye": torch.arange(10, dtype=torch.uint8).view(-1, 1, 1, 1)}
    large = {**inputs, "image/eye": inputs["image/eye"].expand(10, 4, 4, 3)}  # 48 numbers a row
    monkeypatch.setattr(blocks, "NUMBERS_AT_ONCE", 150)
    for given, most, sizes in ((inputs, 4, [4, 4, 2]), (large, 4, [3, 3, 3, 1]), (large, 2, [2] * 5)):
        parts = blocks.in_blocks(given, most)
        assert [len(part["vector"]) for part in parts] == sizes
        for name, x in given.items():
            assert torch.equal(torch.cat([part[name] for part in parts]), x)
    monkeypatch.setattr(blocks, "NUMBERS_AT_ONCE", 1)
    assert len(blocks.in_blocks(large, 4)) == 10  # a row is never cut
    assert len(blocks.in_blocks({"vector": inputs["vector"]}, 10)) == 1


@pytest.mark.parametrize("row", [TRPO, CPO, CUP], ids=lambda row: row.name)
def test_no_more_pictures_are_convolved_at_once_than_a_block_holds(
    row: Any, torch_rng: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = build(row.Config, {"update": {"passes": 1, "minibatch": 5}, "cost_gamma": 0.99}).update
    network, inputs = whole("choice", torch_rng, 24)
    batch = some_rows(network, inputs, update.takes, torch_rng)
    rows, convolve = [], nn.functional.conv2d
    monkeypatch.setattr(blocks, "NUMBERS_AT_ONCE", 5 * 36 * 36 * 2)
    monkeypatch.setattr(
        nn.functional, "conv2d", lambda x, *args, **more: (rows.append(len(x)), convolve(x, *args, **more))[1]
    )
    once = network.encoder(inputs)
    assert max(rows) == 24  # with a gradient a graph is asked for, of the rows that were given
    rows.clear()
    with torch.no_grad():
        torch.testing.assert_close(network.encoder(inputs), once.detach())
    learnt(update, network, batch)
    assert max(rows) == 5


# --- which pictures there are ---


def test_pictures_may_have_any_names(torch_rng: torch.Generator) -> None:
    box = gym.spaces.Box(0, 255, (36, 36, 1), np.uint8)
    codec = ObservationCodec.of(gym.spaces.Dict({"eye/left": box, "eye.right": box}))
    encoder = Encoder(codec, torch_rng)
    inputs = {
        name: torch.randint(0, 256, (3, *shape), dtype=torch.uint8) for name, (shape, _) in codec.shapes().items()
    }
    assert sorted(inputs) == ["image/eye.right", "image/eye/left"]
    for part, net, name in zip(encoder(inputs).split(128, dim=1), encoder.pictures.values(), codec.images, strict=True):
        torch.testing.assert_close(part, net(inputs[name]))


def test_a_row_refuses_pictures_too_small_for_its_encoder_before_a_run_exists(tmp_path: Any) -> None:
    registry.add(Entry("env", "Crumbs-v0", "test_pictures:crumbs", "a game"), "tests")
    with pytest.raises(ConfigError, match=r"\[20, 48, 3\].* 36 pixels"):
        TRPO.check(build(TRPO.Config, {"env": "Crumbs-v0"}), tmp_path)


# --- a game that has to be seen ---

# Two cards. On the left one arm 0 pays 1, on the right one arm 1 pays 2, and each costs 1; arm 2 pays 0.2 for nothing.
PAY = np.array([[1.0, 0.0, 0.2], [0.0, 2.0, 0.2]])
PRICE = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
SHADES = (130, 170, 210, 250)  # in which a card may be drawn: what matters is where it is


def drawn(card: np.ndarray, shade: np.ndarray) -> np.ndarray:
    """[N, 36, 36, 1]: the left or the right half lit."""
    picture = np.zeros((len(card), 36, 36, 1), np.uint8)
    for i, (side, value) in enumerate(zip(card, shade, strict=True)):
        picture[i, :, 18 * side : 18 * (side + 1)] = value
    return picture


class Cards:
    """One-step episodes: a card is shown, and one of three arms is pulled."""

    id = "cards"
    costs = ("cost",)
    max_episode_steps = 1

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.observation_space = gym.spaces.Box(0, 255, (36, 36, 1), np.uint8)
        self.action_space = gym.spaces.Discrete(3)
        self.episode_seed = np.zeros(num_envs, np.uint32)
        own = np.random.default_rng(7)
        self.seed_source: Any = lambda n: own.integers(0, 2**32, n, dtype=np.uint32)

    def reset(self, seeds: Any = None) -> Any:
        self.episode_seed[:] = self.seed_source(self.num_envs) if seeds is None else seeds
        self.card = (self.episode_seed >> 20).astype(np.int64) % 2
        return drawn(self.card, np.array(SHADES)[(self.episode_seed >> 22) % 4])

    def step(self, actions: Any) -> Step:
        reward, cost = PAY[self.card, actions], PRICE[self.card, actions][:, None]
        over, obs = np.ones(self.num_envs, np.bool_), self.reset()
        return Step(obs, reward, cost, over, ~over, obs)

    def close(self) -> None:
        pass


def cards(id: str, num_envs: int, threads: int = 1) -> Cards:
    return Cards(num_envs)


def crumbs(id: str, num_envs: int, threads: int = 1) -> Cards:
    world = Cards(num_envs)
    world.observation_space = gym.spaces.Box(0, 255, (20, 48, 3), np.uint8)
    return world


@pytest.fixture
def _cards() -> None:
    registry.add(Entry("env", "Cards-v0", "test_pictures:cards", "a game"), "tests")


class Settled(NamedTuple):
    pay: float
    price: float


def settled(row: Any, settings: dict[str, Any], epochs: int, folder: Any) -> Settled:
    """What the last quarter of the policies of a training earn and are charged, exactly: each card in each shade."""
    card, shade = (x.ravel() for x in np.meshgrid([0, 1], SHADES, indexing="ij"))
    seen: list[Settled] = []

    def look(_: int, policy: Any) -> None:
        inputs = {name: torch.as_tensor(x) for name, x in policy.observation.encode(shown(policy)).items()}
        with torch.no_grad():
            found = policy.network.policy(policy.network.features(inputs))
        assert isinstance(found, Choices)
        share = found.logits[0].exp().numpy()
        seen.append(Settled((share * PAY[card]).sum(1).mean(), (share * PRICE[card]).sum(1).mean()))

    def shown(policy: Any) -> Any:
        pictures = drawn(card, shade)
        return pictures if policy.world.augmentation is None else {"world": pictures, "augmentation": np.ones((8, 1))}

    config = build(row.Config, {**GAME, **settings, "total_steps": 64 * epochs})
    with Run.create(folder, kind="train", name=row.name, config=config, seed=3) as run:
        run.watch = look
        row.train(config, run, {})
    last = seen[-max(1, epochs // 4) :]
    return Settled(*(float(np.mean(part)) for part in zip(*last, strict=True)))


GAME: dict[str, Any] = {
    "env": "Cards-v0",
    "num_envs": 64,
    "steps_per_epoch": 64,
    "checkpoint_epochs": 1000,
    "actor": {"hidden": (), "last_gain": 0.1},
    "critic": {"hidden": ()},
    "update": {
        "target_kl": 0.05,
        "cg_iters": 5,
        "cg_damping": 0.01,
        "fisher_stride": 4,  # 16 of 64 rows, and there are eight pictures
        "passes": 4,
        "minibatch": 64,
        "critic_lr": 1e-2,
    },
}


@pytest.mark.usefixtures("_cards")
def test_trpo_learns_to_see(tmp_path: Any) -> None:
    # Whoever cannot tell the cards apart has 1 at most, from arm 1 alone; the optimum is (1 + 2)/2.
    assert settled(TRPO, {}, 24, tmp_path).pay == pytest.approx(1.5, abs=0.05)


@pytest.mark.usefixtures("_cards")
def test_cpo_learns_to_see_and_spends_its_limit_where_it_pays(tmp_path: Any) -> None:
    # On the right card a cost of 1 earns 1.8 more than arm 2, on the left one 0.8. With 0.65 a card on average the
    # right one is always taken, and the left one three times in ten: ½·2 + ½·(0.3·1 + 0.7·0.2) = 1.22. Free: 1.5.
    found = settled(CPO, {"cost_limit": 0.65, "window": 128}, 30, tmp_path)
    assert found.price == pytest.approx(0.65, abs=0.04)
    assert found.pay == pytest.approx(1.22, abs=0.06)


@pytest.mark.usefixtures("_cards")
def test_a_budget_beside_the_picture_is_kept(tmp_path: Any) -> None:
    # Without a budget only arm 2 is left on either card.
    rules = {"augmentation": {"gamma": 1.0, "strict": False, "unsafe_reward": -1.0}, "cost_limit": 0.0}
    found = settled(TRPO_SAUTE, rules, 14, tmp_path)
    assert found.price < 0.05
    assert found.pay == pytest.approx(0.2, abs=0.05)
