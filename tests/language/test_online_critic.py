"""Critics: a body of their own, with adapters, or the policy's; one gradient for both losses; one pass for a step."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_world import TOKENIZER, World, chances, tiny, weights, whole_and_resumed

from trueline.core.errors import ConfigError
from trueline.language.estimators import token_weights
from trueline.language.forward import learning_mode
from trueline.language.models import Lora, attach_lora
from trueline.language.online import LM_PPO, LM_PPO_LAG, Critic, SharedCritic, Trainer, policy_loss, value_loss
from trueline.language.online.critic import critic_for, last_hidden, learnt_by_itself
from trueline.language.online.losses import WORTH_A_PASS, parts_of_like_length
from trueline.language.optimiser import Optimiser
from trueline.language.subject import ScoreModel, values_before

torch.set_num_threads(1)
SHARED = {"kind": "shared", "optimiser": {"lr": 1e-2}, "weight": 0.1}


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


# --- values ---


def test_heads_on_the_policy_read_what_its_output_head_reads():
    policy, tokens = tiny(), torch.randint(3, 9, (3, 7), generator=torch.Generator().manual_seed(0))
    critic = critic_for(SharedCritic(), policy, ("reward", "kl"), 0)
    with torch.no_grad():
        critic.linear.weight.normal_(generator=torch.Generator().manual_seed(1))
        with last_hidden(policy.model) as seen:
            logits = policy.model(input_ids=tokens, logits_to_keep=torch.tensor([2, 5])).logits
        (hidden,) = seen
        torch.testing.assert_close(policy.model.lm_head(hidden)[:, [2, 5]], logits)
        expected = torch.zeros(3, 7, 2)  # before column 0 nothing was read
        expected[:, 1:] = hidden[:, :-1] @ critic.linear.weight.T
        torch.testing.assert_close(values_before(critic.read(hidden)), expected)
        torch.testing.assert_close(critic.values(tokens), expected)
        policy.model(input_ids=tokens)
    assert len(seen) == 1  # nobody looks any more


def test_what_a_critic_learns_by_itself():
    policy = tiny()
    own = critic_for(Critic(), policy, ("reward",), 0)
    assert len(learnt_by_itself(Critic(), own)) == len(list(own.parameters()))
    assert next(own.body.parameters()).data_ptr() != next(policy.model.parameters()).data_ptr()
    adapted = critic_for(Critic(lora=Lora(rank=2)), policy, ("reward",), 0)
    names = learnt_by_itself(Critic(lora=Lora(rank=2)), adapted)
    assert {name.split(".")[-3] if "lora" in name else name for name in names} == {
        "lora_A", "lora_B", "linear.weight", "linear.bias",
    }  # fmt: skip
    shared = critic_for(SharedCritic(), policy, ("reward",), 0)
    assert set(learnt_by_itself(SharedCritic(), shared)) == {"weight", "bias"}
    assert next(shared.body.parameters()) is next(policy.model.base_model.parameters())


# --- the joint step ---


def gradients(trainer):
    return {name: p.grad.clone() for name, p in trainer.policy.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lora", [False, True])
def test_a_shared_body_moves_by_the_sum_of_both_losses(world, monkeypatch, lora):
    """∇ of policy loss + w·value loss, both written out by hand on a second pass over the same replies."""
    more = {"model": {"lora": {"rank": 2}}} if lora else {}
    config = world.config("lm-ppo", critic={**SHARED, "weight": 0.7}, kl={"weight": 0.2}, cut_penalty=1.0, **more)
    with world.run("lm-ppo", config) as run:
        trainer = Trainer(config, run, {"policy": tiny()})
        with torch.no_grad():
            trainer.critic.linear.weight.normal_(generator=torch.Generator().manual_seed(0))
        seen = {}
        monkeypatch.setattr(Optimiser, "step", lambda self: torch.tensor(0.0))
        rollout, scores = trainer._sampled([trainer.prompts.chats[0][k % 4] for k in range(4)])
        found, _ = trainer._learnt(rollout, scores)
        trainer.learning.learn(found, trainer.step)
        seen = gradients(trainer)
        heads = trainer.critic.linear.weight.grad.clone()
        trainer.policy.model.zero_grad()
        trainer.critic.linear.zero_grad()

        learning_mode(trainer.policy.model, False)
        output = trainer.policy.model(input_ids=rollout.tokens, output_hidden_states=True, use_cache=False)
        log_prob = output.logits.log_softmax(-1)[:, :-1].gather(-1, rollout.tokens[:, 1:, None]).squeeze(-1)
        log_prob = torch.where(rollout.sampled, torch.nn.functional.pad(log_prob, (1, 0)), 0.0)
        value = values_before(trainer.critic.linear(output.hidden_states[-1]))
        kept = found.signals.kept
        torch.testing.assert_close(torch.where(kept[..., None], value, 0.0),
                                   torch.where(kept[..., None], found.value, 0.0))  # fmt: skip
        weight = token_weights(kept, "dapo", 3)
        loss = policy_loss(log_prob, found.old_log_prob, found.advantage, weight, 0.2)
        loss = loss + 0.7 * value_loss(value, found.value, found.target, kept, 5.0) / kept.sum()
        loss.backward()
        expected = gradients(trainer)
    assert seen.keys() == expected.keys()
    assert ("lora" in next(iter(seen))) == lora
    for name, gradient in expected.items():
        torch.testing.assert_close(seen[name], gradient, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(heads, trainer.critic.linear.weight.grad, atol=1e-5, rtol=1e-4)
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-2


@pytest.mark.parametrize("critic", [SHARED, {"kind": "own", "optimiser": {"lr": 1e-2}}], ids=["shared", "own"])
def test_a_step_that_is_learnt_at_once_is_the_step_of_its_parts(world, critic):
    """The pass made ahead says the values of the rollout; cut up, values are read in passes of their own."""
    runs = [
        world.train("lm-ppo-lag", critic=critic, kl={"weight": 0.1}, optimiser={"lr": 1e-3}, **extra)
        for extra in ({}, {"micro_batch": 2}, {"micro_batch": 4})
    ]
    assert runs[0][2].config.get("micro_batch") is None
    for subject, lines, _ in runs[1:]:
        torch.testing.assert_close(weights(subject), weights(runs[0][0]), atol=2e-5, rtol=0)
        for ours, theirs in zip(lines, runs[0][1], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)


def test_a_step_that_is_learnt_at_once_reads_every_reply_once(world, monkeypatch):
    config = world.config("lm-ppo", critic=SHARED, kl={"weight": 0.0}, max_steps=4)
    with world.run("lm-ppo", config) as run:
        trainer, passes = Trainer(config, run, {"policy": tiny()}), []
        trainer.policy.model.base_model.register_forward_hook(lambda *_: passes.append(1))
        trainer.one_step()  # drawn by a decoder of its own
    assert len(passes) == 1


def test_with_a_shared_body_the_best_token_wins(world):
    settings = {"sampling": {"max_tokens": 1}, "kl": {"weight": 0.0}, "batch_size": 32, "max_steps": 60}
    subject, lines, _ = world.train("lm-ppo", critic=SHARED, **settings)
    assert chances(subject)[0] > 0.9
    assert lines[-1]["update/value_loss"] < lines[0]["update/value_loss"]


# --- warm-up, resumption, adapters ---


def test_heads_alone_learn_while_a_shared_body_warms_up(world):
    seen, heads = [], []
    config = world.config("lm-ppo-lag", critic={**SHARED, "warmup": 2}, eval_steps=1)
    with world.run("lm-ppo-lag", config) as run:
        trainer = Trainer(config, run, {"policy": tiny()})
        for _ in range(3):
            trainer.one_step()
            seen.append(weights(trainer.policy).clone())
            heads.append(trainer.critic.linear.weight.detach().clone())
    assert torch.equal(seen[0], weights(tiny()))
    assert torch.equal(seen[1], seen[0])
    assert not torch.equal(seen[2], seen[1])
    assert heads[0].abs().max() > 0
    assert not torch.equal(heads[1], heads[0])


ADAPTED = {"kind": "own", "lora": {"rank": 2}, "optimiser": {"lr": 1e-2}}


@pytest.mark.parametrize("critic", [SHARED, ADAPTED], ids=["shared", "adapters"])
def test_a_run_that_is_killed_and_resumed_leaves_the_same_bytes(world, monkeypatch, critic):
    settings = {"max_steps": 4, "checkpoint_steps": 1, "passes": 2, "minibatch": 3, "kl": {"weight": 0.1}}
    config = world.config("lm-ppo-lag", critic=critic, **settings)
    whole, resumed = whole_and_resumed(world.runs, LM_PPO_LAG, config, monkeypatch)
    assert resumed == whole


def test_adapters_of_a_critic_leave_its_body_as_it_was(world):
    config = world.config("lm-ppo", critic=ADAPTED)
    with world.run("lm-ppo", config) as run:
        trainer = Trainer(config, run, {"policy": tiny()})
        before = {name: p.detach().clone() for name, p in trainer.critic.named_parameters()}
        for _ in range(3):  # heads, then B of B·A, then A: each has no gradient while the one before is 0
            trainer.one_step()
        state = trainer.state_dict()["critic"]
    moved = {name for name, p in trainer.critic.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(state) == {name for name in before if "lora" in name or name.startswith("linear")}


def test_a_given_setting_of_the_shared_critic_changes_what_is_learnt(world):
    base = {"critic": SHARED, "passes": 3, "optimiser": {"lr": 3e-2, "epsilon": 1e-2}}
    one = weights(world.train("lm-ppo", **base)[0])
    changes = ({"weight": 0.9}, {"value_clip": 1e-3}, {"optimiser": {"lr": 0.3}}, {"warmup": 1})
    for change in changes:
        other = world.train("lm-ppo", **{**base, "critic": {**SHARED, **change}})[0]
        assert not torch.equal(one, weights(other)), change


def test_a_setting_of_the_other_critic_is_refused(world):
    for critic in ({"kind": "shared", "lora": {}}, {"kind": "own", "weight": 0.1}):
        with pytest.raises(ConfigError, match="critic"):
            world.config("lm-ppo", critic=critic)


# --- parts ---


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 400), max_size=60),
    rows=st.none() | st.integers(1, 9),
    tokens=st.none() | st.integers(400, 4000),
)
def test_parts_hold_every_row_once_and_keep_to_their_bounds(lengths, rows, tokens):
    length = torch.tensor(lengths, dtype=torch.int64)
    parts = parts_of_like_length(length, tokens, rows)
    assert sorted(row for part in parts for row in part.tolist()) == list(range(len(lengths)))
    widths = [int(length[part].max()) for part in parts]
    assert widths == sorted(widths, reverse=True)
    for part, width in zip(parts, widths, strict=True):
        assert rows is None or len(part) <= rows
        assert tokens is None or len(part) == 1 or len(part) * width <= tokens


def test_parts_are_cut_where_padding_would_cost_more_than_a_pass():
    even = torch.full((400,), 64)
    assert len(parts_of_like_length(even)) == 1
    halves = torch.cat([torch.full((WORTH_A_PASS // 64,), 64), torch.full((50,), 10)])
    assert [len(part) for part in parts_of_like_length(halves)] == [WORTH_A_PASS // 64, 50]
    few = torch.tensor([64, 10, 10])
    assert len(parts_of_like_length(few)) == 1


# --- scores with adapters ---


def test_a_body_with_adapters_is_saved_with_them_in_its_weights(tmp_path):
    rng = torch.Generator().manual_seed(0)
    model = ScoreModel.of(tiny(), ("reward",))
    model.body = attach_lora(model.body, Lora(rank=2), seed=0, headless=True)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.normal_(generator=rng)
    tokens = torch.randint(3, 9, (2, 6), generator=rng)
    model.save(tmp_path / "saved")
    from trueline.language.subject import load_score_model

    again = load_score_model(tmp_path / "saved")
    assert not any("lora" in name for name, _ in again.named_parameters())
    with torch.no_grad():
        torch.testing.assert_close(again(tokens), model.eval()(tokens), atol=1e-5, rtol=1e-5)
        with model.body.disable_adapter():
            assert (model(tokens) - again(tokens)).abs().max() > 0.1
    assert TOKENIZER.get_vocab() == again.tokenizer.get_vocab()
    assert np.isfinite(float(again(tokens).sum()))


def test_the_published_row_has_a_critic_of_its_own():
    assert LM_PPO.Config.model_fields["critic"].default == Critic()


# --- activations computed again ---


@pytest.mark.parametrize("critic", [SHARED, {"kind": "own", "optimiser": {"lr": 1e-2}}], ids=["shared", "own"])
def test_activations_computed_twice_make_the_same_step(world, critic):
    settings = {"critic": critic, "kl": {"weight": 0.1}, "optimiser": {"lr": 1e-3}}
    kept = world.train("lm-ppo", **settings)[0]
    config = world.config("lm-ppo", gradient_checkpointing=True, **settings)
    with world.run("lm-ppo", config) as run:
        trainer, passes = Trainer(config, run, {"policy": tiny()}), []
        for model in trainer.reading.learners:
            model.base_model.layers[0].self_attn.register_forward_hook(lambda *_: passes.append(1))
        trainer.train()
    torch.testing.assert_close(weights(trainer.policy), weights(kept), atol=2e-5, rtol=0)
    assert len(passes) == 2 * 3 * len(trainer.reading.learners)  # forward, and again backward, in three steps
