"""Dry runs of on-line recipes: what they foretell is what a training does."""

import json
import math

import pytest
import torch
from token_world import TOKENIZER, World, log, tiny

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.recipe import Rehearses, rehearse
from trueline.language.best_of_n import RFT
from trueline.language.forward import cache_bytes, weight_bytes
from trueline.language.online import GRPO, LM_PPO, LM_PPO_LAG, Trainer
from trueline.language.subject import ScoreModel

torch.set_num_threads(1)


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def inputs():
    return {"policy": tiny()}


@pytest.mark.parametrize("settings", [{}, {"max_steps": None, "epochs": 1.5}, {"samples": 3, "batch_size": 3}])
def test_it_foretells_the_steps_and_bounds_the_tokens(world, settings):
    config = world.config("lm-ppo", **settings)
    told = LM_PPO.dry_run(config, inputs(), world.runs, seed=3)
    with world.run("lm-ppo", config) as run:
        trainer, read = Trainer(config, run, inputs()), 0
        first, sampled = [], trainer._sampled

        def counted(chats):
            nonlocal read
            rollout, scores = sampled(chats)
            read += int(rollout.attended.sum())
            first.extend(chats[:: config.samples])
            return rollout, scores

        trainer._sampled = counted
        trainer.train()
    assert told.steps == trainer.step == len(log(run))
    assert 0 < read <= told.tokens
    asked = [TOKENIZER.apply_chat_template([turn._asdict() for turn in one], add_generation_prompt=True, tokenize=False)
             for one in first[:3]]  # fmt: skip
    assert list(told.rows) == [f"{text}⟦at most 3 tokens⟧" for text in asked]
    assert f"{told.steps} steps, at most {told.tokens:,} tokens" in str(told)
    assert f"prompts.jsonl: 4 items of 4 prompt rows\n1: {told.rows[0]}" in str(told)


def test_replies_that_never_end_reach_the_bound(world, monkeypatch):
    policy = tiny()
    policy.tokenizer = __import__("copy").deepcopy(TOKENIZER)
    policy.tokenizer.add_special_tokens({"eos_token": "<never>"})
    policy.model.generation_config.eos_token_id = policy.tokenizer.eos_token_id
    config = world.config("grpo")
    told = GRPO.dry_run(config, {"policy": policy}, world.runs, seed=3)
    with world.run("grpo", config) as run:
        trainer, read = Trainer(config, run, {"policy": policy}), 0
        for _ in range(trainer.steps):
            before = trainer.order.state_dict()
            trainer.one_step()
            assert trainer.order.state_dict() != before
        lines = log(run)
    assert all(line["train/cut"] == 1.0 for line in lines)
    read = sum(line["train/length"] for line in lines) * config.replies
    prompts = told.tokens - read  # the rest is prompts, once for each reply
    lengths = [len(TOKENIZER(text).input_ids) for text in ("x", "y", "xy", "yx")]
    assert prompts == config.samples * sum(n + 3 for n in lengths) * told.steps  # four prompts, all in every step


def test_it_counts_memory_by_what_is_held(world):
    size = weight_bytes(tiny().model.parameters())
    heads = 3 * (16 + 1) * 4  # reward, harm, divergence
    plain = LM_PPO_LAG.dry_run(world.config("lm-ppo-lag"), inputs(), world.runs).memory
    assert (plain.weights, plain.gradients, plain.moments, plain.reference) == (size, size, 2 * size, size)
    body = weight_bytes(tiny().model.base_model.parameters())
    assert plain.critic == 4 * (body + heads)
    assert plain.activations > 0
    longest = len(
        TOKENIZER.apply_chat_template([{"role": "user", "content": "xy"}], add_generation_prompt=True)["input_ids"]
    )
    assert plain.cache == cache_bytes(tiny().model, 4, longest + 3) == 2 * 4 * (longest + 3) * 16 * 4
    shared = LM_PPO_LAG.dry_run(world.config("lm-ppo-lag", critic={"kind": "shared"}), inputs(), world.runs).memory
    assert shared.critic == 4 * heads
    adapted = world.config("lm-ppo-lag", critic={"lora": {"rank": 1}}, model={"lora": {"rank": 1}})
    small = LM_PPO_LAG.dry_run(adapted, inputs(), world.runs).memory
    assert small.reference == 0  # the policy with its adapters off
    assert small.gradients < size / 5
    assert small.critic < 2 * body
    group = GRPO.dry_run(world.config("grpo"), inputs(), world.runs).memory
    assert group.critic == group.reference == 0
    fewer = GRPO.dry_run(world.config("grpo", micro_batch=3), inputs(), world.runs).memory
    assert fewer.activations == pytest.approx(group.activations / 4, rel=0.1)
    judge = ScoreModel.of(tiny(4), ("reward",))
    judged = world.config("grpo", scorers=[{"kind": "score-model", "input": "judge"}])
    told = GRPO.dry_run(judged, {**inputs(), "judge": judge}, world.runs).memory
    assert told.scorers == weight_bytes(judge.parameters())
    assert told.total == sum(told)


def test_it_is_an_ability_and_refuses_what_training_would(world):
    assert isinstance(LM_PPO, Rehearses)
    config = world.config("lm-ppo", scorers=[{"kind": "score-model", "input": "judge"}])
    with pytest.raises(ConfigError, match="a scorer needs the input 'judge'"):
        LM_PPO.dry_run(config, inputs(), world.runs)
    world.prompts.write_text(json.dumps({"prompt": "y" * 40}) + "\n")
    with pytest.raises(ConfigError, match="has a prompt of 43 tokens"):
        rehearse("lm-ppo", world.config("lm-ppo"), inputs(), world.runs)


def test_rejection_sampling_is_foretold_by_its_bounds(world):
    given = {
        "prompts": {"path": str(world.prompts)},
        "scorers": [{"kind": "function", "name": "letters"}],
        "sampling": {"max_tokens": 12},
        "samples": 8,
        "keep": 2,
        "rounds": 2,
        "tuning": {"batch_size": 3, "epochs": 2.0, "optimiser": {"lr": 1e-3}},
    }
    config = build(RFT.Config, given)
    told = RFT.dry_run(config, inputs(), world.runs, seed=3)
    assert told.steps == 2 * math.ceil(2 * 4 * 2 / 3)
    with world.run("rft", config) as run:
        RFT.train(config, run, inputs())
    taken, read = 0, 0
    for path in (run.folder / "artefacts" / "rounds").glob("round-*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        taken, read = taken + lines[-1]["step"], read + lines[-1]["train/tokens"]
    drawn = sum(line["train/length"] for line in log(run)) * 4 * 8
    assert 0 < taken <= told.steps
    assert 0 < read + drawn <= told.tokens
    assert all(row.endswith("⟦at most 12 tokens⟧") for row in told.rows)
    size = weight_bytes(tiny().model.parameters())
    assert (told.memory.weights, told.memory.gradients, told.memory.reference) == (size, size, 0)
    small = RFT.dry_run(build(RFT.Config, {**given, "model": {"lora": {"rank": 1}}}), inputs(), world.runs).memory
    assert small.gradients < size / 5
