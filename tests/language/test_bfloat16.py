"""bfloat16: no type to train weights in, and the type of the products of what learns, on-line too."""

from __future__ import annotations

import pytest
import torch
from token_world import RECIPES, World, tiny, weights, whole_and_resumed

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.run import Run
from trueline.language import online, online_dpo
from trueline.language.decoder import fits
from trueline.language.models import Lora, attach_lora, check_learns
from trueline.language.online_dpo import ONLINE_DPO
from trueline.language.optimiser import AdamW, Optimiser
from trueline.language.recipes import DPO, REWARD_MODEL, SFT

torch.set_num_threads(1)
HALF = {"autocast": "bfloat16"}
A_HUNDREDTH = 1e-2  # what 8 bits leave of a loss of order one
LOGIT = 0.03  # what they leave of a logit of order one after a layer


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "online-dpo", ONLINE_DPO)
    return World(tmp_path, monkeypatch)


def half(subject=None):
    subject = subject or tiny()
    subject.model.bfloat16()
    return subject


# --- weights ---


def test_a_step_below_a_512th_of_a_weight_is_rounded_away():
    weight = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(weight - (weight.float() * 0.99 / 512).bfloat16(), weight)


@pytest.mark.parametrize(("dtype", "still"), [(torch.bfloat16, (0.6, 1.0)), (torch.float32, (0.0, 0.01))])
def test_most_weights_stay_where_they_are_at_a_usual_rate(dtype, still):
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter((0.02 * torch.randn(50, 50, generator=generator)).to(dtype))
    before, optimiser = weight.detach().clone(), Optimiser(AdamW(lr=1e-5), [weight], 30)
    for _ in range(30):
        weight.grad = torch.randn(50, 50, generator=generator).to(dtype)
        optimiser.step()
    assert still[0] <= float((weight == before).float().mean()) <= still[1]


def test_only_what_is_trained_has_to_be_long():
    model = half().model
    with pytest.raises(ConfigError, match=r"the policy's weights are bfloat16.*autocast = 'bfloat16', or train adapt"):
        check_learns(model.parameters(), "policy")
    adapted = attach_lora(model, Lora(rank=2), 0)
    check_learns(adapted.parameters())
    assert not fits(adapted)  # the decoder would add the adapters into bfloat16, and round them away
    check_learns(tiny().model.parameters())


@pytest.mark.parametrize("recipe", [SFT, DPO, REWARD_MODEL], ids=lambda recipe: recipe.name)
def test_supervised_recipes_refuse_them(recipe, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "x", "chosen": "a", "rejected": "b"}\n')
    data = {"data": {"path": str(path), "limit": None}, "batch_size": 1, "max_steps": 1}
    short = build(recipe.Config, {**data, "model": {"dtype": "bfloat16"}})
    with pytest.raises(ConfigError, match="most steps of the optimiser are rounded away"):
        recipe.dry_run(short)
    with (
        Run.create(tmp_path / "runs", kind="train", name=recipe.name, config=short, seed=0) as run,
        pytest.raises(ConfigError, match="most steps of the optimiser are rounded away"),
    ):
        recipe.train(short, run, {})
    adapted = build(recipe.Config, {**data, "model": {"dtype": "bfloat16", "lora": {"rank": 2}}})
    recipe.dry_run(adapted)


@pytest.mark.parametrize("name", ["lm-ppo", "grpo", "online-dpo"])
def test_on_line_recipes_refuse_them(world, name):
    with pytest.raises(ConfigError, match="the policy's weights are bfloat16"):
        train(world, name, {"policy": half()})


def test_a_critic_of_bfloat16_takes_adapters_too(world):
    adapters = {"model": {"lora": {"rank": 2}}}
    with pytest.raises(ConfigError, match="the critic's weights are bfloat16"):
        train(world, "lm-ppo", {"policy": half()}, **adapters)
    subject, _, _ = train(world, "lm-ppo", {"policy": half()}, **adapters, critic={"lora": {"rank": 2}})
    learnt = [p for p in subject.model.parameters() if p.requires_grad]
    assert {p.dtype for p in learnt} == {torch.float32}
    assert any(p.abs().sum() > 0 for name, p in subject.model.named_parameters() if "lora_B" in name)


# --- products ---


def train(world, name, inputs=None, **settings):
    if name == "online-dpo":
        settings = {"samples": 2, "kl": {"weight": 0.1}, **settings}
    return world.train(name, inputs, **settings)


CASES = {
    "lm-ppo-lag": {},
    "lm-ppo": {"critic": {"kind": "shared"}, "kl": {"weight": 0.1}},
    "grpo": {"kl": {"weight": 0.1}},
    "online-dpo": {},
}


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_float32_but_for_the_rounding(world, name):
    """Weights stay in float32 and move; what is logged of the first step is close and not equal."""
    settings = {**CASES[name], "max_steps": 1}
    whole, lines, _ = train(world, name, **settings)
    short, other, _ = train(world, name, **settings, **HALF)
    assert {p.dtype for p in short.model.parameters()} == {torch.float32}
    assert not torch.equal(weights(short), weights(tiny()))
    assert not torch.equal(weights(short), weights(whole))
    for key in ("update/policy_loss", "update/value_loss"):
        if key in lines[0]:
            assert other[0][key] == pytest.approx(lines[0][key], abs=A_HUNDREDTH)
    assert other[0]["train/reward"] == lines[0]["train/reward"]  # the replies are the same: they are drawn in float32


def trainer(world, name, **settings):
    config = world.config(name, **settings)
    run = world.run(name, config)
    return online.Trainer(config, run, {"policy": tiny()}), run


@pytest.mark.parametrize(
    ("name", "settings"), [("lm-ppo", {}), ("lm-ppo", {"critic": {"kind": "shared"}}), ("grpo", {})]
)
def test_every_pass_of_what_learns_computes_in_it(world, name, settings):
    more = {"passes": 2, "minibatch": 2, "ptx": {"batch_size": 1}}
    made, run = trainer(world, name, kl={"weight": 0.1}, **more, **settings, **HALF)
    kinds = {"policy": [], "reference": [], "critic": []}

    def watched(body, who):
        body.layers[0].mlp.down_proj.register_forward_hook(lambda _, __, out: kinds[who].append(out.dtype))

    watched(made.policy.model.model, "policy")
    watched(made.reading.reference.model, "reference")
    if made.critic is not None and not made.reading.shared:
        watched(made.critic.body, "critic")
    heads = []
    if made.critic is not None:
        made.critic.linear.register_forward_hook(lambda _, __, out: heads.append(out.dtype))
    with run:
        made.one_step()
    assert len(kinds["policy"]) > len(kinds["reference"]) > 0
    assert bool(kinds["critic"]) == (name == "lm-ppo" and not settings)
    assert {kind for one in kinds.values() for kind in one} == {torch.bfloat16}
    assert set(heads) <= {torch.float32}


def test_what_was_drawn_and_what_is_learnt_from_agree_to_what_it_allows(world):
    made, run = trainer(world, "grpo", kl={"weight": 0.1}, sampling={"max_tokens": 8}, **HALF)
    with run:
        rollout, scores = made._sampled(made.prompts.chats[0] * 3)
        read = made.reading.log_prob(rollout)
        gap = (read - rollout.log_prob)[rollout.sampled].abs()
        assert 0.0 < float(gap.max()) < LOGIT
        found, kl = made._learnt(rollout, scores)
    assert torch.equal(found.old_log_prob, read)  # so that the first ratio is 1
    assert torch.equal(kl, torch.zeros_like(kl))  # and a policy does not diverge from itself


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_is_killed_and_resumed_leaves_the_same_bytes(world, name, monkeypatch):
    more = {"samples": 2, "kl": {"weight": 0.1}, "minibatch": 4} if name == "online-dpo" else {"minibatch": 3}
    settings = {"max_steps": 3, "checkpoint_steps": 1, "passes": 2, **more, **CASES[name], **HALF}
    trainer = online_dpo._Trainer if name == "online-dpo" else online.Trainer
    config = world.config(name, **settings)
    whole, resumed = whole_and_resumed(world.runs, RECIPES[name], config, monkeypatch, trainer=trainer)
    assert resumed == whole


def test_a_dry_run_counts_half_of_the_activations(world):
    told = [RECIPES["grpo"].dry_run(world.config("grpo", **given), {"policy": tiny()}).memory for given in ({}, HALF)]
    assert told[1].activations == told[0].activations // 2
    assert told[1]._replace(activations=0) == told[0]._replace(activations=0)
