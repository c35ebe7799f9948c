"""Losses and gradients of TRL's GRPO and RLOO trainers, on the same weights, prompts, replies and rewards.

Their trainers are given the replies instead of drawing them; advantages and losses are computed by their own code. The
replies were drawn by other weights than those that learn, so that ratios differ from 1 and some are clipped.
"""

import copy

import numpy as np
import pytest
import torch
from token_world import TOKENIZER, Letters, World, tiny

from trueline.language import online
from trueline.language.online import reply_log_prob
from trueline.language.rollout import Sampling, chat
from trueline.language.sampler import StaticCache

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

torch.set_num_threads(1)
SAMPLES, MOST = 4, 6
CHATS = [chat(text) for text in ("x", "yx", "xyxy") for _ in range(SAMPLES)]
EQUAL = {"abs": 1e-5, "rel": 0}


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def learner(distance=2.0):
    """Weights some way from those that the replies are drawn with."""
    made = tiny()
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.model.parameters():
            p.add_(distance * p.abs().mean() * torch.randn(p.shape, generator=rng))
    return made


def drawn(temperature):
    sampling = Sampling(max_tokens=MOST, temperature=temperature)
    rollout = StaticCache().sample(tiny(), CHATS, sampling, np.random.default_rng(2))
    lengths = rollout.sampled.sum(dim=1)
    assert lengths.unique().numel() > 2  # how length counts has to show
    return rollout


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


class Replies:
    """A sampler that has drawn already."""

    def __init__(self, rollout):
        self.rollout = rollout

    def sample(self, *_):
        return self.rollout


def ours(world, name, rollout, policy, beta=0.0, **settings):
    """Loss and gradient of the first step; with a β, beside the weights that the replies are drawn with."""
    kl = {"weight": beta, "estimator": "k3"}
    config = world.config(name, batch_size=len(CHATS) // SAMPLES, samples=SAMPLES, kl=kl, max_steps=1, **settings)
    found = []
    with world.run(name, config) as run:
        trainer = online.Trainer(config, run, {"policy": policy, **({"reference": tiny()} if beta else {})})
        trainer.sampler = Replies(rollout)
        trainer.learning.take_step = lambda _, loss, *__: found.append((loss, gradient(trainer.policy.model)))
        trainer.one_step()
    return found[0]


def theirs(kind, rollout, policy, folder, temperature=1.0, beta=0.0, **settings):
    """The same of a trainer of TRL."""

    def reward(prompts, completions, **_):
        return [Letters().judged(text).reward for text in completions]

    arguments = getattr(trl, f"{kind}Config")(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=len(CHATS),
        num_generations=SAMPLES,
        max_completion_length=MOST,
        temperature=temperature,
        beta=0.0,
        max_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **settings,
    )
    model = copy.deepcopy(policy.model)
    trainer = getattr(trl, f"{kind}Trainer")(
        model=model,
        reward_funcs=reward,
        args=arguments,
        train_dataset=datasets.Dataset.from_list([{"prompt": "x"}]),
        processing_class=copy.deepcopy(TOKENIZER),
    )
    prompts = [
        row[kept].tolist() for row, kept in zip(rollout.tokens, rollout.attended & ~rollout.sampled, strict=True)
    ]
    replies = [row[kept].tolist() for row, kept in zip(rollout.tokens, rollout.sampled, strict=True)]
    texts = TOKENIZER.batch_decode(replies, skip_special_tokens=True)
    made = (prompts, replies, texts) if kind == "RLOO" else (prompts, replies, None, texts, None, {}, None, None)
    trainer._generate = lambda _: made
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    batch = trainer._generate_and_score_completions([{"prompt": "x"}] * len(CHATS))
    old = torch.zeros(batch["completion_ids"].shape)
    for r, kept in enumerate(rollout.sampled):
        old[r, : int(kept.sum())] = rollout.log_prob[r, kept]
    batch["old_per_token_logps"] = batch["ref_per_token_logps"] = old
    trainer.beta = beta  # set here, since it would look for the reference by the model's name
    if kind == "RLOO":
        batch["old_logps"] = old.sum(dim=1)
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), gradient(model)


@pytest.mark.parametrize(
    ("loss_type", "scale"),
    [
        ("grpo", "group"),
        ("bnpo", "group"),
        ("dapo", "group"),
        ("dr_grpo", "group"),
        ("luspo", "group"),
        ("dapo", "batch"),
        ("dapo", "none"),
    ],
)
def test_grpo(world, tmp_path, loss_type, scale):
    policy, rollout = learner(), drawn(1.0)
    level = {"importance_sampling_level": "token"} if loss_type == "luspo" else {}
    loss, slope = theirs("GRPO", rollout, policy, tmp_path, loss_type=loss_type, scale_rewards=scale, **level)
    found, got = ours(world, "grpo", rollout, policy, loss_type=loss_type, sampling={"max_tokens": MOST},
                      estimator={"scale_rewards": scale})  # fmt: skip
    assert abs(loss) > 1e-3
    assert found == pytest.approx(loss, **EQUAL)
    torch.testing.assert_close(got, slope, atol=1e-5, rtol=0)
    assert slope.abs().max() > 1e-2


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo", "dr_grpo"])
def test_grpo_beside_a_reference(world, tmp_path, loss_type):
    policy, rollout = learner(), drawn(1.0)
    loss, slope = theirs("GRPO", rollout, policy, tmp_path, beta=0.5, loss_type=loss_type)
    found, got = ours(world, "grpo", rollout, learner(), 0.5, loss_type=loss_type, sampling={"max_tokens": MOST})
    _, alone = ours(world, "grpo", rollout, learner(), loss_type=loss_type, sampling={"max_tokens": MOST})
    assert found == pytest.approx(loss, **EQUAL)
    torch.testing.assert_close(got, slope, atol=1e-5, rtol=0)
    assert (got - alone).abs().max() > 1e-2


def test_grpo_at_another_temperature(world, tmp_path):
    policy, rollout = learner(), drawn(0.7)
    sampling = {"max_tokens": MOST, "temperature": 0.7}
    loss, slope = theirs("GRPO", rollout, policy, tmp_path, temperature=0.7, loss_type="dapo")
    found, got = ours(world, "grpo", rollout, policy, sampling=sampling)
    assert found == pytest.approx(loss, **EQUAL)
    torch.testing.assert_close(got, slope, atol=1e-5, rtol=0)


def test_some_ratios_are_clipped_in_what_is_compared():
    policy, rollout = learner(), drawn(1.0)
    with torch.no_grad():
        log_prob = reply_log_prob(policy.model, rollout.tokens, rollout.sampled, 1.0)
    ratio = (log_prob - rollout.log_prob)[rollout.sampled].exp()
    assert ((ratio - 1.0).abs() > 0.2).any()
    assert ((ratio - 1.0).abs() < 0.2).any()


@pytest.mark.parametrize("whiten", [False, True])
def test_rloo_has_their_gradient_before_the_first_step(world, tmp_path, whiten):
    """Where every ratio is 1; its losses are of replies there and of tokens here, and differ by a constant."""
    policy, rollout = tiny(), drawn(1.0)
    _, slope = theirs("RLOO", rollout, policy, tmp_path, normalize_advantages=whiten)
    _, got = ours(world, "rloo", rollout, policy, sampling={"max_tokens": MOST}, estimator={"whiten": whiten})
    torch.testing.assert_close(got, slope, atol=1e-5, rtol=0)
    assert slope.abs().max() > 1e-2
