"""On-line recipes: token bandits with known optima, signs, resumption bit by bit, refusals, every setting's effect."""

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from token_world import (
    COST,
    RECIPES,
    REWARD,
    TOKENIZER,
    Letters,
    World,
    chances,
    log,
    tiny,
    weights,
    whole_and_resumed,
)

from trueline.core.config import build, laid_over, to_toml
from trueline.core.errors import CheckpointError, ConfigError, Diverged, Stopped
from trueline.core.recipe import Checks
from trueline.core.run import Run
from trueline.core.subject import load_subject
from trueline.language import online
from trueline.language.models import ModelRef, token_log_prob
from trueline.language.online import (
    GRPO,
    LM_PPO,
    LM_PPO_LAG,
    RLOO,
    failing_prompts,
    learning,
    policy_loss,
    prompts_for,
    reply_log_prob,
    training,
    value_loss,
)
from trueline.language.rollout import Sampling, chat
from trueline.language.sampler import StaticCache
from trueline.language.subject import LanguageModel, ScoreModel, load

torch.set_num_threads(1)


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


# --- known optima: one token, reward 1 and cost 1 for a, reward 0.4 for b ---

BANDIT = {
    "sampling": {"max_tokens": 1},
    "kl": {"weight": 0.0},
    "batch_size": 32,
    "optimiser": {"lr": 1e-2, "schedule": "constant"},
}
CRITIC = {"critic": {"optimiser": {"lr": 1e-2, "schedule": "constant"}}}
HANDLER = {"kind": "lagrangian", "rule": "log-sgd", "lr": 0.4, "init": 0.5, "upper": 5.0}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("lm-ppo", CRITIC), ("rloo", {"batch_size": 8, "samples": 4}), ("grpo", {"batch_size": 8, "samples": 4})],
)
def test_without_a_limit_the_best_token_wins(world, name, settings):
    subject, lines, _ = world.train(name, **{**BANDIT, "max_steps": 60, **settings})
    assert chances(subject)[0] > 0.9
    assert np.mean([line["train/reward"] for line in lines[-10:]]) > 0.9


def regularised_optimum(reference, beta, limit):
    """p ∝ π_ref·exp((r − λc)/((1 + λ)β)) with λ such that p_a is at the limit, and that λ.

    It maximises (r − λc)/(1 + λ) − β·KL: the divergence weighs β whatever λ is.
    """
    letters = [*"ab", *[""] * (len(reference) - 2)]
    reward, cost = (np.array([table.get(letter, 0.0) for letter in letters]) for table in (REWARD, COST))
    low, high = 0.0, 5.0
    for _ in range(60):
        lam = (low + high) / 2
        p = reference * np.exp((reward - lam * cost) / ((1 + lam) * beta))
        p /= p.sum()
        low, high = (lam, high) if p[0] > limit else (low, lam)
    return p, lam


SMALL_GROUPS = {"batch_size": 8, "samples": 8}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("lm-ppo-lag", CRITIC),
        ("rloo", SMALL_GROUPS),
        ("grpo", {**SMALL_GROUPS, "estimator": {"scale_rewards": "none"}}),
    ],
    ids=["lm-ppo-lag", "rloo", "grpo"],
)
def test_under_a_limit_and_beside_a_reference_the_known_optimum_is_reached(world, name, settings):
    rest = [chances(tiny(), [t]) for t in TOKENIZER.get_vocab() if t not in "ab"]
    expected, multiplier = regularised_optimum(np.array([*chances(tiny()), *np.ravel(rest)]), 0.2, 0.3)
    given = {**BANDIT, "batch_size": 64, "max_steps": 100, "cost_limit": 0.3, "window": 64, "kl": {"weight": 0.2}}
    handler = {**HANDLER, "lr": 0.2}
    _, lines, _ = world.train(name, **{**given, **settings, "constraint": handler})
    last = lines[len(lines) // 2 :]
    cost, reward, got = (
        np.mean([line[key] for line in last]) for key in ("train/harm", "train/reward", "constraint/multiplier_harm")
    )
    assert cost == pytest.approx(0.3, abs=0.02)
    assert reward == pytest.approx(expected[0] + 0.4 * expected[1], abs=0.03)
    assert got == pytest.approx(multiplier, abs=0.05)


# --- signs ---


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("name", ["lm-ppo", "grpo"])
def test_the_divergence_is_paid_for_with_every_estimator(world, name, estimator):
    given = {"batch_size": 16, "max_steps": 30, "sampling": {"max_tokens": 1}, "options": {"scale": 0.0}}
    given |= {"kl": {"weight": 1.0, "estimator": estimator}, **({"samples": 4} if name == "grpo" else CRITIC)}
    policy = tiny(2)
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(8.0)
    _, lines, _ = world.train(name, inputs={"policy": policy, "reference": tiny()}, **given)
    first, last = (np.mean([line["train/kl"] for line in part]) for part in (lines[:5], lines[-5:]))
    assert first > 0.02
    assert last < 0.6 * first


def test_a_heavy_multiplier_drives_the_costly_token_out(world):
    heavy = {**HANDLER, "lr": 1e-6, "init": 5.0}
    subject, _, _ = world.train(
        "lm-ppo-lag", **{**BANDIT, **CRITIC, "max_steps": 40, "constraint": heavy, "cost_limit": 0.0}
    )
    a, b = chances(subject)
    assert a < 0.05
    assert b > 0.5


@pytest.mark.parametrize(("limit", "rises"), [(0.0, True), (1.0, False)])
def test_the_multiplier_rises_above_the_limit_and_falls_below(world, limit, rises):
    _, lines, _ = world.train(
        "lm-ppo-lag", **{**BANDIT, "max_steps": 4, "cost_limit": limit, "optimiser": {"lr": 1e-9}}
    )
    trace = [1.0] + [line["constraint/multiplier_harm"] for line in lines]
    assert all((b > a) == rises for a, b in itertools.pairwise(trace) if a != b)
    assert (trace[-1] > 1.0) == rises


def test_the_multiplier_follows_the_raw_cost_of_the_window_by_the_rule(world):
    """λ ← λ·exp(0.1·λ·(J_C − d)) with J_C over the last 6 replies, from the first step on."""
    _, lines, _ = world.train(
        "lm-ppo-lag", **{**BANDIT, "batch_size": 6, "window": 6, "max_steps": 5, "cost_limit": 0.05}
    )
    expected = 1.0
    for line in lines:
        expected *= np.exp(0.1 * expected * (line["train/harm"] - 0.05))
        assert line["constraint/multiplier_harm"] == pytest.approx(expected, rel=1e-6)


def test_a_large_weight_of_the_divergence_keeps_the_policy_at_the_reference(world):
    before = chances(tiny())
    free, _, _ = world.train("lm-ppo", **{**BANDIT, **CRITIC, "max_steps": 40})
    held, lines, _ = world.train("lm-ppo", **{**BANDIT, **CRITIC, "max_steps": 40, "kl": {"weight": 20.0}})
    assert chances(free)[0] > 0.6
    assert chances(held)[0] == pytest.approx(before[0], abs=0.05)
    assert lines[0]["train/kl"] == pytest.approx(0.0, abs=1e-4)


def test_an_adaptive_weight_follows_the_measured_divergence(world):
    """β ← β·(1 + clip(KL/target − 1, ±0.2)·32/100), and so falls at first, where policy and reference are one."""
    adaptive = {"weight": 0.01, "adaptive": {"target": 0.05, "horizon": 100.0}}
    _, lines, _ = world.train("lm-ppo", **{**BANDIT, **CRITIC, "max_steps": 12, "kl": adaptive})
    beta = 0.01
    for line in lines:
        beta *= 1.0 + np.clip(line["train/kl"] / 0.05 - 1.0, -0.2, 0.2) * 0.32
        assert line["train/beta"] == pytest.approx(beta, rel=1e-5)
    assert lines[0]["train/beta"] < 0.01
    assert min(line["train/beta"] for line in lines) < lines[-1]["train/beta"]


ADAPTIVE = {"max_steps": 4, "kl": {"weight": 0.1, "adaptive": {"target": 0.05, "horizon": 20.0}}}


def test_an_adaptive_weight_is_what_replies_are_credited_with(world, monkeypatch):
    """Each step with what the step before left."""
    used, whole = [], training.with_kl
    monkeypatch.setattr(training, "with_kl", lambda weights, beta: used.append(beta) or whole(weights, beta))
    _, lines, _ = world.train("rloo", **ADAPTIVE)
    assert used == pytest.approx([0.1, *(line["train/beta"] for line in lines[:-1])])
    assert len(set(used)) == 4


def test_an_adaptive_weight_is_that_of_the_divergence_in_the_loss(world, monkeypatch):
    """With a divergence of 1 and nothing else in it, the loss is β of the step before."""
    monkeypatch.setattr(learning, "policy_loss", lambda log_prob, *_: 0.0 * log_prob.sum())
    monkeypatch.setattr(learning, "kl_loss", lambda log_prob, *_: 1.0 + 0.0 * log_prob.sum())
    _, lines, _ = world.train("grpo", **laid_over(ADAPTIVE, {"kl": {"estimator": "k3"}}))
    used = [line["update/policy_loss"] for line in lines]
    assert used == pytest.approx([0.1, *(line["train/beta"] for line in lines[:-1])])
    assert len(set(used)) == 4


def test_a_penalty_teaches_to_end(world):
    """Replies of three tokens at most: with a penalty on cut ones and no other reward, the model learns to end."""
    settings = {**BANDIT, **CRITIC, "options": {"scale": 0.0}, "sampling": {"max_tokens": 3}, "max_steps": 40}
    _, lines, _ = world.train("lm-ppo", **{**settings, "cut_penalty": 1.0})
    cut = [line["train/cut"] for line in lines]
    assert np.mean(cut[-5:]) < 0.3 < 0.6 < np.mean(cut[:3])


def test_kept_text_becomes_likelier(world, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"prompt": [{"role": "user", "content": "x"}],
                                "completion": [{"role": "assistant", "content": "d"}]}) + "\n")  # fmt: skip
    kept = {"data": {"path": str(path)}, "weight": 1.0, "batch_size": 2}
    settings = {**BANDIT, "options": {"scale": 0.0}, "max_steps": 25}
    subject, lines, _ = world.train("rloo", **{**settings, "batch_size": 4, "ptx": kept})
    assert chances(subject, "d")[0] > 0.8
    assert lines[-1]["update/ptx_loss"] < lines[0]["update/ptx_loss"]


# --- losses ---


def test_log_prob_of_replies_is_that_of_the_whole_model_at_the_temperature():
    model = tiny()
    rollout = StaticCache().sample(
        model, [chat("x"), chat("xyxy")], Sampling(max_tokens=4, temperature=0.7), np.random.default_rng(0)
    )
    got = reply_log_prob(model.model, rollout.tokens, rollout.sampled, 0.7)
    expected = token_log_prob(model.model, rollout.tokens, 0.7)
    torch.testing.assert_close(got, torch.where(rollout.sampled, expected, 0.0))
    torch.testing.assert_close(got.detach(), rollout.log_prob, atol=1e-5, rtol=0)


def test_at_ratio_one_the_policy_loss_has_the_policy_gradient():
    log_prob = torch.tensor([[-1.0, -2.0], [-0.5, -0.1]], requires_grad=True)
    advantage, weight = torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.tensor([[0.5, 0.5], [0.25, 0.0]])
    loss = policy_loss(log_prob, log_prob.detach(), advantage, weight, 0.2)
    loss.backward()
    torch.testing.assert_close(log_prob.grad, -advantage * weight)


def test_every_token_of_a_step_weighs_the_same_in_minibatches_of_any_size(world, monkeypatch):
    """dapo: replies of 12 in minibatches of 5, 5 and 2, whose three losses are averaged over all tokens of the step."""
    seen, whole = [], learning.policy_loss
    monkeypatch.setattr(learning, "policy_loss", lambda *given: seen.append(given[3]) or whole(*given))
    world.train("grpo", max_steps=1, minibatch=5, loss_type="dapo")
    each = torch.cat([weight[weight != 0] for weight in seen])
    assert [len(weight) for weight in seen] == [5, 5, 2]
    torch.testing.assert_close(each, torch.full_like(each, 3.0 / len(each)))


def test_value_clipping_takes_the_worse_of_two_errors():
    # old 0, target 3, clip 1: V = 2 counts as 1 (error 4 instead of 1); V = −2 as −2 (25, not −1's 16): the larger one
    value, target = torch.tensor([[[2.0], [-2.0], [0.5]]]), torch.full((1, 3, 1), 3.0)
    kept = torch.tensor([[True, True, False]])
    assert value_loss(value, torch.zeros_like(value), target, kept, 1.0) == 0.5 * (4.0 + 25.0)
    assert value_loss(value, torch.zeros_like(value), target, kept, None) == 0.5 * (1.0 + 25.0)


def test_accumulated_batches_make_the_step_of_their_union(world):
    whole, parts = (
        weights(world.train("lm-ppo", **{"optimiser": {"lr": 1e-3}, "max_steps": 2, **extra})[0])
        for extra in ({}, {"micro_batch": 1})
    )
    torch.testing.assert_close(whole, parts, atol=2e-5, rtol=0)


# --- what is missing, cut, written down ---


def test_replies_that_were_not_scored_teach_nothing_and_are_counted(world):
    """The best letter goes unjudged: it is neither good nor bad, so the next best one wins."""
    settings = {**BANDIT, **CRITIC, "options": {"unjudged": "a"}, "max_steps": 30}
    subject, lines, _ = world.train("lm-ppo", **settings)
    a, b = chances(subject)
    assert b > 0.5 > a
    shares = [line["train/missing"] for line in lines]
    assert shares[0] > 0
    assert lines[-1]["train/total_missing"] == pytest.approx(32 * sum(shares))


def test_a_step_in_which_nothing_was_scored_changes_nothing(world, monkeypatch):
    monkeypatch.setattr(Letters, "judged", lambda self, text: None)
    config = world.config("lm-ppo-lag")
    with world.run("lm-ppo-lag", config) as run:
        trainer = online.Trainer(config, run, {"policy": tiny()})
        for _ in range(3):
            trainer.one_step()
    lines = log(run)
    assert torch.equal(weights(trainer.policy), weights(tiny()))
    assert [line["constraint/multiplier_harm"] for line in lines] == [1.0] * 3
    assert all("train/reward" not in line and "train/harm" not in line for line in lines)


def test_completions_are_written_down_with_what_they_earned(world):
    _, _, run = world.train("grpo", completion_steps=2, completions=5, options={"unjudged": "c"})
    found = sorted(path.name for path in (run.folder / "artefacts" / "completions").iterdir())
    assert found == ["step-000002.json", "step-000003.json"]
    rows = json.loads((run.folder / "artefacts" / "completions" / found[0]).read_text())
    assert len(rows) == 5
    for row in rows:
        judged = Letters(unjudged="c").judged(row["reply"])
        assert row["prompt"] in ("x", "y", "xy", "yx")
        if judged is None:
            assert row["reward"] is None
        else:
            assert row["reward"] == pytest.approx(judged.reward)
            assert row["cost"] == pytest.approx(judged.cost)


def test_the_critic_alone_learns_while_it_warms_up(world):
    early = {"critic": {"warmup": 2, "optimiser": {"lr": 1e-2}}, "eval_steps": 1}
    seen = []
    _, lines, _ = world.train(
        "lm-ppo-lag", watch=lambda step, subject: seen.append(weights(subject).clone()), max_steps=3, **early
    )
    start = weights(tiny())
    assert torch.equal(seen[0], start)
    assert torch.equal(seen[1], start)
    assert not torch.equal(seen[2], start)
    assert [line["constraint/multiplier_harm"] for line in lines][:2] == [1.0, 1.0]
    values = [line["update/value_loss"] for line in lines]
    assert values[0] > 0


# --- resumption ---


RESUMED = {
    **{name: (name, {}) for name in sorted(RECIPES)},
    "adaptive": ("lm-ppo", {"kl": {"weight": 0.1, "adaptive": {"target": 0.05, "horizon": 5.0}}}),
    "ptx": ("rloo", {"ptx": {"batch_size": 1}}),
}


@pytest.mark.parametrize("case", RESUMED)
def test_a_run_that_is_killed_and_resumed_leaves_the_same_bytes(world, case, monkeypatch):
    name, more = RESUMED[case]
    settings = {"max_steps": 4, "checkpoint_steps": 1, "passes": 2, "minibatch": 3, "kl": {"weight": 0.1}, **more}
    whole, resumed = whole_and_resumed(world.runs, RECIPES[name], world.config(name, **settings), monkeypatch)
    assert resumed == whole


def test_prompts_that_changed_are_refused_on_resume(world):
    config = world.config("grpo", checkpoint_steps=1)
    with world.run("grpo", config, id="a") as run:
        GRPO.train(config, run, {"policy": tiny()})
    world.prompts.write_text(json.dumps({"prompt": "x"}) + "\n")
    with pytest.raises(CheckpointError, match="prompts of run a changed"), Run.reopen(run.folder) as again:
        GRPO.train(config, again, {"policy": tiny()})


def test_the_result_is_a_subject_that_replies(world):
    subject, _, run = world.train("lm-ppo")
    loaded = load_subject(run.folder)
    assert torch.equal(weights(loaded), weights(subject))
    assert len(loaded.reply([chat("x")], Sampling(max_tokens=2), np.random.default_rng(0))) == 1


# --- adapters and given references ---


def test_adapters_are_trained_beside_themselves_switched_off(world):
    model = tiny()
    base = {name: p.detach().clone() for name, p in model.model.named_parameters()}
    subject, lines, _ = world.train(
        "rloo", inputs={"policy": model}, model={"lora": {"rank": 2, "alpha": 4.0}}, kl={"weight": 0.1}, max_steps=3
    )
    assert hasattr(subject.model, "disable_adapter")
    with subject.model.disable_adapter():
        plain = subject.model.get_base_model()
        for name, p in plain.named_parameters():
            if "lora" not in name:
                assert torch.equal(p, base[name.replace(".base_layer", "")]), name
    assert lines[0]["train/kl"] == pytest.approx(0.0, abs=1e-4)
    assert lines[-1]["train/kl"] != 0.0


def test_a_given_reference_is_what_the_divergence_is_measured_from(world):
    other = tiny(9)
    kept = copy.deepcopy(other)
    _, lines, _ = world.train("rloo", inputs={"reference": other}, kl={"weight": 0.1}, max_steps=1)
    assert lines[0]["train/kl"] > 1e-3
    assert torch.equal(weights(other), weights(kept))
    for estimator in ("k2", "k3"):  # what is told is of the replies, whatever is learnt from
        weight = {"weight": 0.1, "estimator": estimator}
        _, again, _ = world.train("rloo", inputs={"reference": other}, kl=weight, max_steps=1)
        assert again[0]["train/kl"] == lines[0]["train/kl"]


# --- settings ---


def test_recipes_have_the_abilities_of_recipes(world):
    for recipe in RECIPES.values():
        assert isinstance(recipe, Checks)
        for preset in recipe.presets.values():
            given = {"prompts": {"path": "p"}, "scorers": [{"kind": "function", "name": "letters"}]}
            config = build(recipe.Config, laid_over(dict(preset), given))
            assert to_toml(config)
    config = world.config("lm-ppo-lag", cost_limit=0.5)
    LM_PPO_LAG.check(config, world.runs)
    assert LM_PPO_LAG.limits(config) == {"harm": 0.5}
    assert LM_PPO.limits(world.config("lm-ppo")) == {}


def test_the_published_constants_of_safe_rlhf():
    given = {"prompts": {"path": "p"}, "scorers": [{"kind": "function", "name": "letters"}]}
    config = build(LM_PPO_LAG.Config, laid_over(dict(LM_PPO_LAG.presets["safe-rlhf"]), given))
    assert (config.constraint.rule, config.constraint.lr, config.constraint.init, config.constraint.upper) == (
        "log-sgd", 0.1, 1.0, 5.0,
    )  # fmt: skip
    assert (config.cost_limit, config.window, config.kl.weight, config.clip) == (0.0, 128, 0.01, 0.2)
    assert (config.score_clip, config.critic.value_clip, config.passes) == (50.0, 5.0, 1)
    assert (config.optimiser.lr, config.critic.optimiser.lr) == (1e-5, 5e-6)
    assert config.loss_type == "grpo"  # a mean over each reply, then over replies
    assert (config.estimator.gamma, config.estimator.lam) == (1.0, 0.95)


CHANGES = {
    "clip": (LM_PPO, {"clip": 0.01}),
    "passes": (LM_PPO, {"passes": 2}),
    "minibatch": (LM_PPO, {"minibatch": 2}),
    "loss_type": (LM_PPO, {"loss_type": "grpo", "optimiser": {"lr": 1e-2, "clip": None}}),
    "score_clip": (LM_PPO, {"score_clip": 0.3}),
    "cut_penalty": (LM_PPO, {"cut_penalty": 1.0}),
    "temperature": (LM_PPO, {"sampling": {"temperature": 0.5}}),
    "samples": (LM_PPO, {"samples": 2}),
    "gamma": (LM_PPO, {"estimator": {"gamma": 0.5}}),
    "lam": (LM_PPO, {"estimator": {"lam": 0.1}}),
    "whiten": (LM_PPO, {"estimator": {"whiten": False}}),
    "value_clip": (LM_PPO, {"critic": {"value_clip": 0.001, "optimiser": {"lr": 0.1}}}),
    "kl.weight": (LM_PPO, {"kl": {"weight": 1.0}}),
    "kl.estimator": (LM_PPO, {"kl": {"weight": 1.0, "estimator": "k3"}}),
    "cost_limit": (LM_PPO_LAG, {"cost_limit": 3.0}),
    "window": (LM_PPO_LAG, {"window": 1}),
    "constraint": (LM_PPO_LAG, {"constraint": {"kind": "pid"}}),
    "scale_rewards": (GRPO, {"estimator": {"scale_rewards": "none"}}),
    "rloo.whiten": (RLOO, {"estimator": {"whiten": True}}),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_every_setting_changes_the_policy(world, name):
    recipe, change = CHANGES[name]
    # Adam forgets a constant factor of the loss but for its epsilon, so that is large here.
    base = {"passes": 3, "optimiser": {"lr": 3e-2, "epsilon": 1e-2}, "critic": {"optimiser": {"lr": 1e-1}}}
    if name == "kl.estimator":
        base["kl"] = {"weight": 1.0}
    if recipe in (RLOO, GRPO):
        del base["critic"]
    one = world.train(recipe.name, **base)[0]
    other = world.train(recipe.name, **laid_over(base, change))[0]
    assert not torch.equal(weights(one), weights(other))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("lm-ppo", {"sampling": {"top_k": 3}}, "sampling.top_k is 3, but training draws by temperature alone"),
        ("lm-ppo", {"sampling": {"temperature": 0.0}}, "training needs replies that vary"),
        ("lm-ppo-lag", {"options": {"costs": ()}}, "no scorer gives a cost"),
        ("lm-ppo-lag", {"cost_limit": (1.0, 2.0)}, "cost_limit has 2 values, but there are 1 costs"),
        ("lm-ppo", {"critic": {"warmup": 3}}, "the policy would never learn"),
    ],
)
def test_what_cannot_be_trained_is_refused(world, name, settings, message):
    with pytest.raises(ConfigError, match=message):
        world.train(name, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("grpo", {"samples": 1}, "replies to a prompt are compared"),
        ("lm-ppo", {"minibatch": 5}, "minibatch is 5, but a step has 4 replies"),
        ("lm-ppo", {"kl": {"weight": 0.0, "adaptive": {}}}, "from where it never adapts"),
        ("lm-ppo", {"kl": {"adaptive": {"horizon": 0.8}}}, "a step has 4 replies, which could take all of kl.weight"),
    ],
)
def test_settings_that_cannot_take_effect_are_refused(world, name, settings, message):
    with pytest.raises(ConfigError, match=message):
        world.config(name, **settings)


def test_inputs_that_do_not_fit_are_refused(world):
    with pytest.raises(ConfigError, match="the warm start is a 'score-model'"):
        world.train("lm-ppo", inputs={"policy": ScoreModel.of(tiny(), ("reward",))})


def test_a_prompt_that_fills_the_context_is_refused_or_dropped(world):
    world.prompts.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("x", "y" * 40)))
    with pytest.raises(
        ConfigError, match=r"row 2 of prompts.jsonl has a prompt of 43 tokens, but the context holds 32"
    ):
        world.train("grpo")
    _, lines, _ = world.train("grpo", prompts={"path": str(world.prompts), "long_prompt": "drop"})
    assert len(lines) == 3


def test_a_loss_that_is_no_number_ends_the_run(world):
    broken = tiny()
    with torch.no_grad():
        next(iter(broken.model.model.layers[0].parameters())).fill_(torch.nan)
    with pytest.raises((Diverged, Stopped)):
        world.train("lm-ppo", inputs={"policy": broken})


def test_a_training_is_remembered_and_gone_on_with(world):
    subject, lines, _ = world.train("lm-ppo-lag")
    left = lines[-1]["constraint/multiplier_harm"]
    assert subject.judged_by == ("function:letters",)
    assert subject.history.multipliers == {"harm": pytest.approx(left)}
    assert left != 1.0  # where the handler starts
    folder = world.folder / "saved"
    subject.save(folder)
    again = load(folder)
    assert again.history == subject.history
    assert again.history.trained_on == (str(world.prompts.resolve()),)
    named = LanguageModel.of(ModelRef(name=str(folder)), np.random.default_rng(0))
    assert named.history == subject.history  # a training that begins with the folder knows it too
    _, lines, _ = world.train("lm-ppo-lag", inputs={"policy": again}, constraint={"lr": 1e-9})
    assert lines[-1]["constraint/multiplier_harm"] == pytest.approx(left, rel=1e-6)


def findings(folder, split, chats):
    path = folder / "found.json"
    rows = [{"case": {"data": {"split": split, "chat": [{"role": "user", "content": c}]}}} for c in chats]
    path.write_text(json.dumps(rows))
    return str(path)


def test_prompts_that_failed_get_their_share(world):
    failed = findings(world.folder, "respond", ["ab", "ab", "c"])
    assert failing_prompts(failed, world.folder) == [chat("ab"), chat("c")]
    config = world.config("grpo", findings=(failed,), findings_share=0.5)
    asked = prompts_for(config, tiny(), world.folder)
    assert asked.chats[-1] == (chat("ab"), chat("c"))
    assert asked.weights == (0.5, 0.5)
    assert asked.epoch == sum(map(len, asked.chats[:-1]))
    assert asked.sha256 != prompts_for(world.config("grpo"), tiny(), world.folder).sha256
    with pytest.raises(ConfigError, match="held out for verdicts"):
        failing_prompts(findings(world.folder, "verdict", ["ab"]), world.folder)
    with pytest.raises(ConfigError, match="lists no prompt"):
        failing_prompts(findings(world.folder, "respond", []), world.folder)


def test_multipliers_are_steered_by_fresh_prompts_alone(world):
    failed = findings(world.folder, "respond", ["ab", "c"])
    config = world.config("lm-ppo-lag", findings=(failed,), findings_share=0.5, max_steps=2)
    with world.run("lm-ppo-lag", config) as run:
        trainer = online.Trainer(config, run, {"policy": tiny()})
        trainer.one_step()
        assert len(trainer.recent_cost) == int(trainer.fresh.sum()) == 2  # of four prompts
        trainer.one_step()
        assert len(trainer.recent_cost) == 4


def test_trainings_on_the_same_data_are_shown_on_the_same_prompts(world):
    failed = findings(world.folder, "respond", ["ab", "c"])
    shown = []
    for settings in ({}, {"findings": (failed,)}):
        *_, run = world.train("grpo", **settings)
        text = (run.folder / "artefacts" / "media" / "replies.txt").read_text()
        shown.append([line for line in text.splitlines() if line.startswith("›")])
        (item,) = json.loads((run.folder / "artefacts" / "media" / "list.json").read_text())
        assert (item["kind"], item["file"]) == ("text", "replies.txt")
    assert shown[0] == shown[1] == ["› x", "› y", "› xy", "› yx"]


def test_scores_of_models_enter_as_inputs(world):
    judge = ScoreModel.of(tiny(4), ("reward", "cost"))
    with torch.no_grad():
        judge.linear.weight.normal_(generator=torch.Generator().manual_seed(0))
    scorers = [
        {"kind": "score-model", "input": "judge", "reward": "reward", "costs": {"risk": "cost"}},
        {"kind": "function", "name": "letters", "weight": 0.5},
        {"kind": "seq2seq-rm", "input": "writer", "rule": "soft"},
    ]
    subject, lines, _ = world.train("lm-ppo-lag", inputs={"judge": judge, "writer": tiny(5)}, scorers=scorers)
    assert {"train/risk", "train/harm", "constraint/multiplier_risk"} <= lines[-1].keys()
    assert not torch.equal(weights(subject), weights(tiny()))
