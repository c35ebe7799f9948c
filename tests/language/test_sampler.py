"""Drawing replies: the decoder against full forward passes, the samplers against each other, and how replies end."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_models import gpt2, grouped, nano, sharpened

from trueline.core.errors import ConfigError
from trueline.language import sampler as samplers
from trueline.language.decoder import Decoder, fits
from trueline.language.models import Lora, attach_lora, token_log_prob
from trueline.language.rollout import Message, Sampling, chat
from trueline.language.sampler import Auto, Generate, StaticCache, Vllm, check_for_training, choose, replies_of

# Different lengths, one of them twice.
CHATS = [chat("abc"), chat("a"), chat("hgfedcba hgfedcba"), chat("abc"), chat("d."), chat("cab cab")]
PARTS_PER_MILLION = 1e-5  # of a logit of order one: what float32 leaves after two layers


def rng(seed: int = 0):
    return np.random.default_rng(seed)


def draw(sampler, subject, seed=0, chats=CHATS, **sampling):
    return sampler.sample(subject, chats, Sampling(**{"max_tokens": 24, **sampling}), rng(seed))


def rows_of(rollout):
    """Tokens of prompt and reply of each row, without padding."""
    return [tokens[kept].tolist() for tokens, kept in zip(rollout.tokens, rollout.attended, strict=True)]


def same(a, b, tolerance=PARTS_PER_MILLION):
    assert rows_of(a) == rows_of(b)
    for name in ("tokens", "attended", "sampled", "group", "ended"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    torch.testing.assert_close(a.log_prob, b.log_prob, atol=tolerance, rtol=0)


# -- the decoder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [nano, grouped])
def test_logits_are_those_of_a_full_forward_pass(make):
    """Prompts of different length, one shared by two rows, and rows that leave on the way."""
    subject, generator = make(), torch.Generator().manual_seed(0)
    prompts, lengths, of = torch.randint(7, 17, (3, 9), generator=generator), [5, 9, 1], [0, 0, 1, 2, 2]
    rows = [prompts[u, : lengths[u]].tolist() for u in of]
    decoder, live = Decoder(subject.model), list(range(5))
    logits = decoder.start(prompts, torch.tensor(lengths), torch.tensor(of), 12)
    for t in range(12):
        with torch.no_grad():
            expected = torch.stack([subject.model(torch.tensor([rows[r]])).logits[0, -1] for r in live])
        torch.testing.assert_close(logits, expected, atol=PARTS_PER_MILLION, rtol=0)
        if t in (3, 4, 7):
            leaves = {3: 0, 4: 3, 7: 1}[t]
            order = decoder.keep([k != leaves for k in range(len(live))])
            assert sorted(order) == [k for k in range(len(live)) if k != leaves]
            live = [live[k] for k in order]
        tokens = torch.randint(7, 17, (len(live),), generator=generator)
        for r, token in zip(live, tokens.tolist(), strict=True):
            rows[r].append(token)
        logits = decoder.step(tokens)
    assert len(live) == 2


def test_prompts_are_read_without_their_padding_and_once_each(monkeypatch):
    read, project = [], Decoder._project
    monkeypatch.setattr(Decoder, "_project", lambda self, x, *rest: read.append(len(x)) or project(self, x, *rest))
    lengths = torch.tensor([5, 9, 1])
    prompts = torch.randint(7, 17, (3, 9), generator=torch.Generator().manual_seed(0))
    Decoder(nano().model).start(prompts, lengths, torch.tensor([0, 0, 1, 2, 2]), 4)
    assert set(read) == {15}
    beyond = torch.arange(9) >= lengths[:, None]

    def first(prompts):
        return Decoder(nano().model).start(prompts, lengths, torch.arange(3), 4)

    assert torch.equal(first(prompts), first(prompts.masked_fill(beyond, 3)))


def test_a_decoder_adds_the_adapters_that_are_on():
    subject = nano()
    plain, tokens = nano().model, torch.tensor([[8, 9, 10]])
    model = sharpened(attach_lora(subject.model, Lora(rank=2), seed=0), factor=1.5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1), std=0.1)
        expected = model(tokens).logits[:, -1]
    assert fits(model)

    def first(model):
        return Decoder(model).start(tokens, torch.tensor([3]), torch.tensor([0]), 1)

    torch.testing.assert_close(first(model), expected, atol=PARTS_PER_MILLION, rtol=1e-5)
    with model.disable_adapter(), torch.no_grad():
        without = model(tokens).logits[:, -1]
        torch.testing.assert_close(first(model), without, atol=PARTS_PER_MILLION, rtol=1e-5)
    assert (without - expected).abs().max() > 0.1
    assert plain is not model


def test_a_decoder_in_half_precision_stays_near_the_models_own_rounding():
    subject = nano()
    tokens = torch.tensor([[8, 9, 10, 11]])
    with torch.no_grad():
        exact = subject.model(tokens).logits[0, -1]
        half = subject.model.bfloat16()(tokens).logits[0, -1].float()
    found = Decoder(subject.model).start(tokens, torch.tensor([4]), torch.tensor([0]), 1)[0].float()
    assert (found - exact).abs().max() < 3 * (half - exact).abs().max() + 0.01


def test_what_the_decoder_cannot_compute_it_says():
    from transformers import LlamaConfig, LlamaForCausalLM

    def llama(**changes):
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        return LlamaForCausalLM(LlamaConfig(vocab_size=9, num_key_value_heads=2, **sizes, **changes))

    assert fits(llama())
    assert not fits(gpt2().model)
    for changes in ({"attention_bias": True}, {"mlp_bias": True}, {"hidden_act": "gelu"}):
        assert not fits(llama(**changes)), changes
    assert not fits(llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}))
    assert not fits(attach_lora(gpt2().model, Lora(), seed=0))
    changed = llama()
    changed.lm_head = torch.nn.Sequential(changed.lm_head)
    assert not fits(changed)
    with pytest.raises(ConfigError, match=r"plain Llama models, .* and not this GPT2LMHeadModel"):
        draw(StaticCache(), gpt2())


# -- choosing a token -------------------------------------------------------------------------------------------------


def test_each_token_has_the_share_of_uniform_numbers_that_is_its_probability():
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.0]])
    grid = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    for temperature in (1.0, 0.5, 2.0):
        probability = (logits[0].double() / temperature).softmax(-1)
        token, log_prob = choose(logits.expand(100_000, -1), grid, Sampling(temperature=temperature))
        share = torch.bincount(token, minlength=4) / 100_000
        torch.testing.assert_close(share.double(), probability, atol=2e-5, rtol=0)
        torch.testing.assert_close(log_prob.double(), probability.log()[token], atol=1e-6, rtol=0)
        assert (token.diff() >= 0).all()  # the inverse of a distribution function


def test_the_ends_of_the_unit_interval_choose_tokens_that_can_occur():
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]])
    for uniform, expected in ((0.0, 1), (1.0 - 2**-53, 2)):
        token, log_prob = choose(logits, torch.tensor([uniform], dtype=torch.float64), Sampling())
        assert token.item() == expected
        assert torch.isfinite(log_prob).all()


def test_temperature_zero_takes_the_likeliest_token_for_sure():
    token, log_prob = choose(torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([0.99]), Sampling(temperature=0.0))
    assert (token.item(), log_prob.item()) == (1, 0.0)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        # Probabilities 0.1, 0.4, 0.2, 0.3.
        (Sampling(top_k=2), [1, 3]),
        (Sampling(top_k=9), [0, 1, 2, 3]),
        (Sampling(top_p=0.65), [1, 3]),  # 0.4 is too little, 0.7 enough
        (Sampling(top_p=0.75), [1, 2, 3]),
        (Sampling(top_p=1e-6), [1]),
        (Sampling(top_k=3, top_p=0.4), [1]),  # of three, 0.4 / 0.9 is enough
    ],
)
def test_truncation_keeps_the_likeliest_and_scales_them_up(sampling, kept):
    probability = torch.tensor([0.1, 0.4, 0.2, 0.3])
    grid = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    token, log_prob = choose(probability.log().expand(10_000, -1), grid, sampling)
    assert token.unique().tolist() == kept
    torch.testing.assert_close(log_prob.exp(), (probability / probability[kept].sum())[token], atol=1e-5, rtol=0)


def test_training_draws_by_temperature_alone():
    check_for_training(Sampling(temperature=0.7))
    for wrong, named in ((Sampling(top_k=5), "top_k is 5"), (Sampling(top_p=0.9), "top_p is 0.9")):
        with pytest.raises(ConfigError, match=rf"sampling.{named}.*temperature alone"):
            check_for_training(wrong)
    with pytest.raises(ConfigError, match="temperature is 0"):
        check_for_training(Sampling(temperature=0.0))


# -- rollouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampler", "make"), [(StaticCache(), nano), (StaticCache(), grouped), (Generate(), gpt2)])
def test_log_probabilities_are_those_of_a_full_forward_pass(sampler, make):
    subject = make()
    for temperature in (1.0, 0.7):
        rollout = draw(sampler, subject, temperature=temperature)
        with torch.no_grad():
            full = token_log_prob(subject.model, rollout.tokens, temperature)
        torch.testing.assert_close(
            rollout.log_prob, torch.where(rollout.sampled, full, 0.0), atol=2 * PARTS_PER_MILLION, rtol=0
        )
        assert rollout.ended.any()


def test_a_rollout_holds_prompts_and_replies_in_order():
    subject = nano()
    rollout = draw(Auto(), subject)
    assert rollout.group.tolist() == [0, 1, 2, 0, 3, 4]
    prompts = samplers.prompts_tokens(subject.tokenizer, CHATS)
    for prompt, row, sampled, ended in zip(prompts, rows_of(rollout), rollout.sampled, rollout.ended, strict=True):
        count = int(sampled.sum())
        assert row[: len(prompt)] == prompt
        assert len(row) == len(prompt) + count
        assert sampled.nonzero()[:, 0].tolist() == list(range(len(prompt), len(row)))
        assert (row[-1] == 2) == bool(ended)
        assert 2 not in row[len(prompt) : -1]
        assert count == 24 or ended
    assert (rollout.tokens[~rollout.attended] == subject.tokenizer.pad_token_id).all()
    assert (rollout.log_prob[~rollout.sampled] == 0).all()
    assert (rollout.log_prob[rollout.sampled] < 0).all()


@pytest.mark.parametrize("make", [nano, grouped])
@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 1.7, "top_k": 5},
        {"top_p": 0.8},
        {"stop": ("a", "bc")},
    ],
)
def test_the_decoder_draws_what_generate_draws(make, sampling):
    subject = make()
    same(draw(StaticCache(), subject, 1, **sampling), draw(Generate(), subject, 1, **sampling))


def test_greedy_replies_are_those_of_hugging_faces_own_greedy_search():
    for make in (nano, gpt2):
        subject = make()
        rollout = draw(Auto(), subject, temperature=0.0)
        for row, sampled in zip(rows_of(rollout), rollout.sampled, strict=True):
            prompt = len(row) - int(sampled.sum())
            with torch.inference_mode():
                given = torch.tensor([row[:prompt]])
                expected = subject.model.generate(
                    given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=24, pad_token_id=0
                )
            assert row == expected[0].tolist()


@pytest.mark.parametrize(("sampler", "make"), [(StaticCache, nano), (Generate, gpt2)])
def test_a_row_is_drawn_alike_whatever_shares_its_batch(sampler, make):
    subject = make()
    together = draw(sampler(), subject)
    for rows in (1, 2, 4):
        same(together, draw(sampler(rows=rows), subject))
    # The first rows of a longer list are the shorter list's.
    assert rows_of(draw(sampler(), subject, chats=CHATS[:2])) == rows_of(together)[:2]


def test_rows_that_have_ended_leave_without_a_trace(monkeypatch):
    subject = nano()
    removed = draw(StaticCache(), subject)
    ends_early = removed.sampled.sum(1) < 24
    assert ends_early.any()
    monkeypatch.setattr(samplers, "end_tokens", lambda *_: (99,))  # no row ends, so none leaves
    kept = draw(StaticCache(), subject)
    assert (kept.sampled.sum(1) == 24).all()
    for a, b in zip(rows_of(removed), rows_of(kept), strict=True):
        assert a == b[: len(a)]
    width = removed.tokens.shape[1]
    difference = (removed.log_prob - kept.log_prob[:, :width])[removed.sampled[:, :width]]
    assert difference.abs().max() < PARTS_PER_MILLION


def test_the_same_generator_draws_the_same_and_another_another():
    subject = nano()
    same(draw(Auto(), subject, 3), draw(Auto(), subject, 3), tolerance=0)
    assert rows_of(draw(Auto(), subject, 3)) != rows_of(draw(Auto(), subject, 4))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw(Auto(), subject)
    draw(Generate(), subject)
    assert torch.equal(before, torch.get_rng_state())


def test_samples_follow_the_models_distribution():
    """Of one prompt, the first tokens of many replies: a chi-square statistic against the exact probabilities."""
    subject, n = nano(), 4000
    rollout = draw(StaticCache(rows=n), subject, chats=[chat("ab")] * n, max_tokens=1)
    prompt = torch.tensor(samplers.prompts_tokens(subject.tokenizer, [chat("ab")]))
    with torch.no_grad():
        expected = n * subject.model(prompt).logits[0, -1].double().softmax(-1)
    counts = torch.bincount(rollout.tokens[rollout.sampled], minlength=len(expected))
    common = expected > 5
    statistic = ((counts - expected)[common] ** 2 / expected[common]).sum()
    assert statistic < 2.5 * common.sum()  # mean of a chi-square is its degrees of freedom


def test_a_rollout_can_be_learnt_from():
    """Its tensors are ordinary ones, not of inference mode."""
    subject = nano()
    rollout = draw(Auto(), subject)
    ratio = (token_log_prob(subject.model, rollout.tokens) - rollout.log_prob).exp()
    (ratio * rollout.sampled).sum().backward()
    gradient = subject.model.get_input_embeddings().weight.grad
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def test_sampling_leaves_the_model_as_it_was():
    subject = gpt2()
    subject.model.train()  # dropout of 0.1 would show in the log-probabilities
    own = subject.model.generation_config
    own.top_k, own.repetition_penalty = 1, 9.0  # settings of the model's that are no part of `Sampling`
    rollout = draw(Generate(), subject)
    assert subject.model.training
    assert subject.model.generation_config is own
    with torch.no_grad():
        full = token_log_prob(subject.model.eval(), rollout.tokens)
    assert (full - rollout.log_prob)[rollout.sampled].abs().max() < 2 * PARTS_PER_MILLION


# -- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampler", "make"), [(StaticCache(), nano), (Generate(), gpt2)])
def test_a_stop_string_ends_a_reply_and_is_not_part_of_its_text(sampler, make):
    subject, stops = make(), ("a", "bc")
    free, stopped = draw(sampler, subject), draw(sampler, subject, stop=stops)
    met = 0
    for row, sampled, before, after in zip(
        free.tokens,
        free.sampled,
        replies_of(free, subject, Sampling()),
        replies_of(stopped, subject, Sampling(stop=stops)),
        strict=True,
    ):
        ids = row[sampled].tolist()
        texts = [subject.tokenizer.decode(ids[:k], skip_special_tokens=True) for k in range(1, len(ids) + 1)]
        # The reply ends with the token that completes whichever stop string is complete first.
        done = next((k for k, text in enumerate(texts, 1) if any(stop in text for stop in stops)), None)
        if done is None:
            assert after == before
            continue
        met += 1
        assert (after.tokens, after.ended) == (done, True)
        assert after.text == texts[done - 1].removesuffix("bc").removesuffix("a")
    assert met >= 2


def test_any_of_several_end_tokens_ends_a_reply():
    subject = nano()
    subject.model.generation_config.eos_token_id = [2, 8, 9]
    for sampler in (StaticCache(), Generate()):
        rollout, last = draw(sampler, subject, max_tokens=60), set()
        for row, sampled, ended in zip(rollout.tokens, rollout.sampled, rollout.ended, strict=True):
            *inner, end = row[sampled].tolist()
            assert not {2, 8, 9} & set(inner)
            assert (end in (2, 8, 9)) == bool(ended)
            last |= {end} & {2, 8, 9}
        assert len(last) > 1


@pytest.mark.parametrize(("sampler", "make"), [(StaticCache(), nano), (Generate(), gpt2)])
def test_a_reply_stops_where_the_context_does(sampler, make):
    roomy, subject = draw(sampler, make()), make()
    subject.model.config.max_position_embeddings = 24
    rollout = draw(sampler, subject)
    lengths = rollout.attended.sum(1)
    assert int(lengths.max()) == 24
    assert (rollout.ended | (lengths == 24) | (rollout.sampled.sum(1) == 24)).all()
    assert (rollout.attended.sum(1) < roomy.attended.sum(1)).any()
    for short, long in zip(rows_of(rollout), rows_of(roomy), strict=True):
        assert short == long[: len(short)]
    with pytest.raises(ConfigError, match=r"the prompt of chat 1 has \d+ tokens, but the model attends to 24"):
        draw(sampler, subject, chats=[chat("a"), chat("a" * 30)])
    with pytest.raises(ConfigError, match="no chats"):
        draw(sampler, subject, chats=[])


def test_positions_never_run_out_of_a_table_of_them():
    rollout = draw(Generate(), gpt2(context=24), max_tokens=100)
    assert int(rollout.attended.sum(1).max()) == 24


def test_texts_are_without_markers():
    subject = nano()
    rollout = draw(Auto(), subject)
    for reply, row, sampled in zip(
        replies_of(rollout, subject, Sampling()), rollout.tokens, rollout.sampled, strict=True
    ):
        assert "<" not in reply.text
        assert reply.tokens == int(sampled.sum())
        assert subject.tokenizer.decode(row[sampled], skip_special_tokens=True) == reply.text


def test_chats_of_several_turns_are_prompts_too():
    subject = nano()
    turns = (Message("user", "ab"), Message("assistant", "c"), Message("user", "d"))
    rollout = draw(Auto(), subject, chats=[turns, chat("ab")])
    assert subject.tokenizer.decode(rows_of(rollout)[0]).startswith("<bos><user>ab<assistant>c<eos><user>d<assistant>")


# -- vLLM -------------------------------------------------------------------------------------------------------------


class FakeEngine:
    """Stands for vllm.LLM, with its public methods alone: answers each request with its seed's digits, and keeps what
    it was given. Within a process of its own it would take no function.
    """

    def __init__(self, **settings):
        self.settings, self.asked, self.loaded, self.cleared = settings, [], [], 0
        self.in_this_process = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "1") == "0"

    def apply_model(self, func):
        assert self.in_this_process, "a function cannot be sent to another process without pickling it"
        return [func(SimpleNamespace(load_weights=self.loaded.append))]

    def generate(self, prompts, params, use_tqdm):
        self.asked.append((prompts, params))
        answers = []
        for p in params:
            ids = [7 + int(digit) for digit in str(p.seed)][: p.max_tokens]
            reason = "stop" if len(ids) < p.max_tokens else "length"
            steps = [{id: SimpleNamespace(logprob=-0.1 * id), 0: SimpleNamespace(logprob=-9.0)} for id in ids]
            output = SimpleNamespace(token_ids=ids, logprobs=steps, finish_reason=reason)
            answers.append(SimpleNamespace(outputs=[output]))
        return answers

    def reset_prefix_cache(self):
        self.cleared += 1


def test_vllm_gets_prompts_seeds_and_present_weights(monkeypatch):
    engines = []

    def start(**settings):
        engines.append(FakeEngine(**settings))
        return engines[-1]

    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=start, SamplingParams=SimpleNamespace))
    subject, sampling = nano(), Sampling(max_tokens=8, temperature=0.5, stop=("x",))
    sampler = Vllm(memory=0.2).open()
    rollout = sampler.sample(subject, CHATS, sampling, rng())
    (engine,) = engines
    assert engine.settings["gpu_memory_utilization"] == 0.2
    assert engine.settings["logprobs_mode"] == "processed_logprobs"
    prompts, params = engine.asked[0]
    assert [p["prompt_token_ids"] for p in prompts] == samplers.prompts_tokens(subject.tokenizer, CHATS)
    assert len({p.seed for p in params}) == len(CHATS)
    assert all((p.temperature, p.top_k, p.top_p, p.stop, p.stop_token_ids) == (0.5, 0, 1.0, ["x"], [2]) for p in params)
    for row, sampled, log_prob, p in zip(rollout.tokens, rollout.sampled, rollout.log_prob, params, strict=True):
        ids = [7 + int(digit) for digit in str(p.seed)][:8]
        assert row[sampled].tolist() == ids
        torch.testing.assert_close(log_prob[sampled], -0.1 * torch.tensor(ids, dtype=torch.float32))
    assert rollout.ended.tolist() == [len(str(p.seed)) < 8 for p in params]
    assert engine.loaded == []  # the engine began with these weights
    sampler.sample(subject, CHATS, sampling, rng())
    assert len(engines) == 1
    assert dict(engine.loaded[0]).keys() == dict(subject.model.named_parameters()).keys()
    assert engine.cleared == 1


def test_vllm_is_named_when_it_is_missing(monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")  # so that it is put back
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match="needs the package vllm"):
        Vllm().open()


def test_auto_takes_the_decoder_where_it_fits(monkeypatch):
    taken = []
    for cls in (StaticCache, Generate):
        monkeypatch.setattr(cls, "sample", lambda self, *_: taken.append((self.kind, self.rows)))
    for make in (nano, gpt2):
        Auto(rows=5).sample(make(), CHATS, Sampling(), rng())
    assert taken == [("static-cache", 5), ("generate", 5)]
    assert Auto().open() == Auto()
