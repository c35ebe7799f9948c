"""Steps of on-line training: our PPO and TRL's GRPO on the same weights, prompts and numbers of replies."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from pathlib import Path

import _interleave
import sampler_throughput as sampling
from _interleave import Comparison, Contestant, Medians, Plan

PROMPTS, SAMPLES = 16, 8  # of a step, and replies to each
WARM_UP, RATE = 2, 1e-5
STEPS = {"nano": 12, "micro": 3}
KINDS = {"shared": {"critic": {"kind": "shared"}}, "own": {}}  # the critic's body: the policy's, or a copy of it
VOWELS = frozenset("aeiou")


class Share:
    """Reward: the share of vowels in a reply. Costs: the shares of as many letters."""

    def __init__(self, costs: int = 0) -> None:
        self.costs = tuple("xyz"[:costs])

    def __call__(self, prompts, replies):  # noqa: ARG002  (it reads replies alone)
        from trueline.language.scorers import Judgement

        return [
            Judgement(share(reply.text, VOWELS), {one: share(reply.text, one) for one in self.costs})
            for reply in replies
        ]


def share(text: str, letters) -> float:
    return sum(letter in letters for letter in text) / max(1, len(text))


def texts(steps: int, variable: bool) -> list[str]:
    """The prompts of all steps, with those of the warm-up before them."""
    return sampling.prompts((WARM_UP + steps) * PROMPTS, variable)


class Stopwatch:
    """Process and wall time, and tokens of prompts and replies, since it was started."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.tokens = 0
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def figures(self) -> dict[str, float]:
        spent = {"cpu_s": time.process_time() - self.cpu, "wall_s": time.perf_counter() - self.wall}
        return {"work": self.tokens, **spent}


# -- ours -------------------------------------------------------------------------------------------------------------


def ours(size: str, steps: int, variable: bool, body: str = "shared", costs: int = 0, beta: float = 0.0):
    """PPO with one critic, whose body is the policy's ("shared") or a copy of it ("own"), and K costs under limits."""
    import torch

    from trueline.core import registry
    from trueline.core.config import build
    from trueline.core.run import Run
    from trueline.language.online import LM_PPO, LM_PPO_LAG, Trainer

    torch.set_num_threads(1)
    registry.add(registry.Entry("scorer", "share", "online_step:Share", "shares of letters"))
    folder, recipe = Path(tempfile.mkdtemp()), LM_PPO_LAG if costs else LM_PPO
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts(steps, variable)))
    given = {
        "prompts": {"path": str(path), "shuffle": False},
        "scorers": [{"kind": "function", "name": "share", "options": {"costs": costs}}],
        "sampling": {"max_tokens": sampling.MAX_TOKENS},
        "sampler": {"kind": "static-cache"},
        "batch_size": PROMPTS,
        "samples": SAMPLES,
        "kl": {"weight": beta},
        "optimiser": {"lr": RATE},
        **KINDS[body],
    }
    config, numbers = build(recipe.Config, given), itertools.count()

    class Counting:
        """A sampler that counts what it reads and writes."""

        def __init__(self, inner, watch: Stopwatch) -> None:
            self.inner, self.watch = inner, watch

        def sample(self, *given):
            rollout = self.inner.sample(*given)
            self.watch.tokens += int(rollout.attended.sum())
            return rollout

    def fresh():
        run = Run.create(folder / "runs", kind="train", name="bench", config=config, seed=0, id=f"r{next(numbers)}")
        trainer, watch = Trainer(config, run, {"policy": sampling.subject(size, variable)}), Stopwatch()
        trainer.sampler = Counting(trainer.sampler, watch)
        for _ in range(WARM_UP):
            trainer.one_step()

        def job():
            watch.start()
            for _ in range(steps):
                trainer.one_step()
            figures = watch.figures()
            run.close()
            return figures

        return job

    return fresh


# -- TRL --------------------------------------------------------------------------------------------------------------


def theirs(size: str, steps: int, variable: bool, beta: float = 0.0):
    """GRPO, which has no critic; beta: with a reference model."""
    import os

    os.environ["TQDM_DISABLE"] = "1"
    import torch
    import trl
    from datasets import Dataset, disable_progress_bars
    from transformers import TrainerCallback

    torch.set_num_threads(1)
    disable_progress_bars()
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in texts(steps, variable)]
    watch = Stopwatch()

    def reward(prompts, completions, completion_ids, **_):
        asked = tokenizer.apply_chat_template(prompts, add_generation_prompt=True)["input_ids"]
        watch.tokens += sum(map(len, asked)) + sum(map(len, completion_ids))
        return [share(reply[0]["content"], VOWELS) for reply in completions]

    class AfterWarmUp(TrainerCallback):
        def on_step_end(self, *given, **_):
            if given[1].global_step == WARM_UP:
                watch.start()

    tokenizer = sampling.subject(size, variable).tokenizer

    def fresh():
        made = sampling.subject(size, variable)
        if beta:  # it loads its reference from where the model says it came from
            folder = tempfile.mkdtemp()
            made.model.save_pretrained(folder)
            made.model.config._name_or_path = folder
        arguments = trl.GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=PROMPTS * SAMPLES,
            num_generations=SAMPLES,
            max_completion_length=sampling.MAX_TOKENS,
            max_steps=WARM_UP + steps,
            learning_rate=RATE,
            beta=beta,
            shuffle_dataset=False,
            report_to="none",
            save_strategy="no",
            logging_steps=10,
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = trl.GRPOTrainer(
            model=made.model,
            reward_funcs=reward,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=made.tokenizer,
            callbacks=[AfterWarmUp()],
        )

        def job():
            trainer.train()
            return watch.figures()

        return job

    return fresh


# -- what cannot be done without --------------------------------------------------------------------------------------


def floor(size: str, variable: bool):
    """The products of matrices of drawing as many replies (`sampler_throughput.floor`)."""
    return sampling.floor(size, PROMPTS * SAMPLES, variable)


def bare(size: str, steps: int, variable: bool):
    """Learning alone: one pass, its gradient and one fused AdamW, on as many tokens in rows of their mean length.

    No row is padded, and rows of one length attend least.
    """
    import torch
    from torch.nn.functional import cross_entropy

    torch.set_num_threads(1)
    rollout = sampling.our_rollout(size, PROMPTS * SAMPLES, variable)()
    width = int(rollout.attended.sum()) // len(rollout.tokens)
    tokens, sampled = (
        every[rollout.attended][: len(every) * width].view(-1, width) for every in (rollout.tokens, rollout.sampled)
    )
    target = tokens[:, 1:].masked_fill(~sampled[:, 1:], -100)

    def fresh():
        model = sampling.subject(size, variable).model.train()
        adam = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)

        def one_step() -> None:
            logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
            cross_entropy(logits.flatten(0, 1), target.flatten()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adam.step()
            adam.zero_grad()

        one_step()

        def job():
            for _ in range(steps):
                one_step()
            return {"work": steps * tokens.numel(), "steps": steps}

        return job

    return fresh


MAKERS = {"ours": ours, "theirs": theirs, "floor": floor, "bare": bare}
SIDES = {
    "PPO, shared body, K = 0": ("ours", {}),
    "PPO, shared body, K = 2": ("ours", {"costs": 2}),
    "PPO, own body, K = 0": ("ours", {"body": "own"}),
    "GRPO": ("theirs", {}),
}
BESIDE = {"PPO, shared body, K = 0, reference": ("ours", {"beta": 0.05}), "GRPO, reference": ("theirs", {"beta": 0.05})}


def _case(size: str, variable: bool) -> str:
    return f"{size}, {'varied' if variable else 'equal'} lengths"


def _compared(size: str, variable: bool, side: str, against: str, bar: float | None) -> Comparison:
    case = _case(size, variable)

    def ceiling(medians: Medians) -> float:
        # Every token is learnt, and those of replies are drawn.
        drawn, learnt = medians[f"floor of drawing, {case}"], medians[f"bare learning, {case}"]
        seconds = drawn["cpu_s"] / sampling.ROLLOUTS[size] + learnt["cpu_s"] / learnt["steps"]
        return learnt["work"] / learnt["steps"] / seconds / medians[f"{against}, {case}"]["per_cpu_s"]

    return Comparison(
        f"{case}: {side} / TRL's {against}",
        f"{side}, {case}",
        "per_cpu_s",
        "products of matrices of drawing, and one bare pass with its gradient without padding / TRL",
        ceiling,
        f"{against}, {case}",
        at_least=bar,
    )


def plan(quick: bool) -> Plan:
    sizes = ("nano",) if quick else ("nano", "micro")
    contestants, comparisons = [], []
    for size, variable in itertools.product(sizes, (False, True)):
        case, steps = _case(size, variable), 3 if quick else STEPS[size]
        given = {"size": size, "variable": variable}
        sides = {**SIDES, **({} if variable else BESIDE)}
        for side, (maker, more) in sides.items():
            contestants.append(Contestant(f"{side}, {case}", maker, {**given, "steps": steps, **more}))
        contestants.append(Contestant(f"floor of drawing, {case}", "floor", given))
        contestants.append(Contestant(f"bare learning, {case}", "bare", {**given, "steps": steps}))
        for side in ("PPO, shared body, K = 0", "PPO, shared body, K = 2", "PPO, own body, K = 0"):
            bar = 1.0 if side == "PPO, shared body, K = 0" else None
            comparisons.append(_compared(size, variable, side, "GRPO", bar))
        if not variable:
            comparisons.append(_compared(size, variable, "PPO, shared body, K = 0, reference", "GRPO, reference", None))
    return Plan(
        unit="tokens of prompts and replies",
        note=f"Steps of {PROMPTS} prompts with {SAMPLES} replies each, of at most {sampling.MAX_TOKENS} tokens at "
        f"temperature 1, random weights, float32, one thread, after {WARM_UP} steps of warm-up; drawing, scoring by a "
        "function of the text, learning in one step, and logging. Equal lengths: replies that never end. Varied ones: "
        f"replies of 13 tokens on average. Tokens are those of prompts (once for each reply) and replies, padding not "
        "counted. GRPO has no critic; ours has one with 1 + K heads, on the policy's body or on a copy of it.",
        contestants=contestants,
        comparisons=comparisons,
    )


if __name__ == "__main__":
    _interleave.main(__file__, MAKERS, plan)
