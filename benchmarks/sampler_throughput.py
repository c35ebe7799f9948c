"""Sampling from tiny models: our static-cache decoder, Hugging Face's `generate`, and the floor of arithmetic."""

from __future__ import annotations

import _interleave
from _interleave import Comparison, Contestant, Medians, Plan

MAX_TOKENS = 64
PROMPT = 16  # letters of a prompt; from half to one and a half times as many where lengths vary
ENDS = 8  # of 103 tokens, that end a reply where lengths vary: replies of 13 tokens on average
ROLLOUTS = {"nano": 16, "micro": 4}  # of one sample, so that it takes a second or so


def subject(preset: str, variable: bool):
    """A model of the preset with random weights, whose replies end at random or never."""
    import numpy as np
    from transformers.utils import logging

    from trueline.language.models import ModelRef
    from trueline.language.subject import LanguageModel

    logging.set_verbosity_error()
    made = LanguageModel.of(ModelRef(name=preset, context=256), np.random.default_rng(0))
    if variable:
        made.model.generation_config.eos_token_id = list(range(2, 2 + 13 * ENDS, 13))
    else:
        made.tokenizer.add_special_tokens({"eos_token": "<never>"})  # beyond what the model can say
        made.model.generation_config.eos_token_id = made.tokenizer.eos_token_id
    return made


def prompts(rows: int, variable: bool) -> list[str]:
    """Random letters."""
    import numpy as np

    rng = np.random.default_rng(1)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lengths = rng.integers(PROMPT // 2, 3 * PROMPT // 2 + 1, size=rows) if variable else [PROMPT] * rows
    return ["".join(rng.choice(letters, n)) for n in lengths]


# -- contestants ------------------------------------------------------------------------------------------------------


def ours(preset: str, rows: int, variable: bool):
    """From chats to a rollout with log-probabilities."""
    rollout = our_rollout(preset, rows, variable)
    return _rollouts(lambda: int(rollout().sampled.sum()), preset)


def our_rollout(preset: str, rows: int, variable: bool):
    import numpy as np
    import torch

    from trueline.language.rollout import Sampling, chat
    from trueline.language.sampler import StaticCache

    torch.set_num_threads(1)
    made, sampler = subject(preset, variable), StaticCache(rows=rows)
    chats, rng = [chat(text) for text in prompts(rows, variable)], np.random.default_rng(2)
    return lambda: sampler.sample(made, chats, Sampling(max_tokens=MAX_TOKENS), rng)


def generate(preset: str, rows: int, variable: bool):
    """From chats to tokens, without log-probabilities."""
    replies = generated(preset, rows, variable)
    return _rollouts(lambda: int(replies().sum()), preset)


def generated(preset: str, rows: int, variable: bool):
    """A function that returns how many tokens each reply has, its end among them."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = subject(preset, variable)
    made.tokenizer.padding_side = "left"
    chats = [[{"role": "user", "content": text}] for text in prompts(rows, variable)]
    ends = torch.tensor(made.model.generation_config.eos_token_id).view(-1)
    settings = {"do_sample": True, "top_k": 0, "max_new_tokens": MAX_TOKENS, "pad_token_id": 0}

    @torch.inference_mode()
    def replies():
        asked = made.tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True
        )
        width = asked["input_ids"].shape[1]
        tokens = made.model.generate(**asked, **settings)[:, width:]
        ended = torch.isin(tokens, ends).long()
        return (ended.cumsum(1) - ended == 0).sum(1)

    return replies


def floor(preset: str, rows: int, variable: bool):
    """The products of matrices alone, of the rows that are still live at each step of one of our rollouts.

    No norms, rotations, softmax, choosing, or templates, and prompts without padding; yet one call for each product.
    """
    import torch

    from trueline.language.models import PRESETS

    rollout = our_rollout(preset, rows, variable)()
    lengths = rollout.sampled.sum(1)
    live = [int((lengths > t).sum()) for t in range(int(lengths.max()))]
    prompt = int((rollout.attended & ~rollout.sampled).sum())
    layers, width, heads, inner = PRESETS[preset]
    rng = torch.Generator().manual_seed(0)
    shapes = ((width, 3 * width), (width, width), (width, 2 * inner), (inner, width))
    stack = [[torch.randn(shape, generator=rng) for shape in shapes] for _ in range(layers)]
    head = torch.randn(width, subject(preset, variable).model.config.vocab_size, generator=rng)
    slots = prompt // rows + MAX_TOKENS
    keys = torch.randn(rows * heads, slots, width // heads, generator=rng)
    x, h = torch.randn(prompt, width, generator=rng), torch.randn(prompt, inner, generator=rng)

    @torch.inference_mode()
    def products() -> int:
        for n, seen in [(prompt, 0), *((n, prompt // rows + t) for t, n in enumerate(live[1:], 1))]:
            for qkv, out, gate_up, down in stack:
                q = torch.mm(x[:n], qkv)[:, :width]
                if seen:
                    q = q.reshape(n * heads, 1, -1)
                    score = torch.bmm(q, keys[: n * heads, :seen].transpose(1, 2))
                    torch.bmm(score, keys[: n * heads, :seen])
                torch.mm(x[:n], out)
                torch.mm(x[:n], gate_up)
                torch.mm(h[:n], down)
            torch.mm(x[: n if seen else rows], head)
        return int(lengths.sum())

    return _rollouts(products, preset)


def _rollouts(one, preset: str):
    """Several of them as the job, after one that warms up."""
    one()

    def job():
        return {"work": sum(one() for _ in range(ROLLOUTS[preset]))}

    return lambda: job


MAKERS = {"ours": ours, "generate": generate, "floor": floor}
SIDES = {"generate": "generate", "trueline": "ours", "floor": "floor"}


def _label(preset: str, rows: int, variable: bool) -> str:
    return f"{preset}, {rows} rows, {'varied' if variable else 'equal'} lengths"


def _compared(preset: str, rows: int, variable: bool) -> Comparison:
    case = _label(preset, rows, variable)
    bars = {("nano", False): 2.5, ("micro", False): 1.4, ("nano", True): 3.0, ("micro", True): 3.0}

    def ceiling(medians: Medians) -> float:
        return medians[f"floor, {case}"]["per_cpu_s"] / medians[f"generate, {case}"]["per_cpu_s"]

    return Comparison(
        f"{case}, trueline / generate",
        f"trueline, {case}",
        "per_cpu_s",
        f"floor / generate, {case}",
        ceiling,
        f"generate, {case}",
        at_least=bars[preset, variable] if rows == 32 else None,
    )


def plan(quick: bool) -> Plan:
    cases = [
        (preset, rows, variable)
        for preset in (("nano",) if quick else ("nano", "micro"))
        for rows in ((32,) if quick else (32, 128))
        for variable in (False, True)
    ]
    return Plan(
        unit="sampled tokens up to the end of their reply",
        note=f"From chats to sampled tokens at temperature 1, at most {MAX_TOKENS} a reply; same random weights, fp32, "
        f"template and tokenizer. Equal lengths: prompts of {PROMPT} letters, replies that never end. Varied lengths: "
        f"prompts of {PROMPT // 2} to {3 * PROMPT // 2} letters, replies that end at {ENDS} of 103 tokens, 13 tokens "
        "on average; tokens behind a reply's end are no work done. Ours returns log-probabilities too, generate does "
        "not. Floor: the products of matrices of the rows still live, and nothing else.",
        contestants=[
            Contestant(
                f"{side}, {_label(preset, rows, variable)}",
                maker,
                {"preset": preset, "rows": rows, "variable": variable},
            )
            for preset, rows, variable in cases
            for side, maker in SIDES.items()
        ],
        comparisons=[_compared(*case) for case in cases],
    )


if __name__ == "__main__":
    _interleave.main(__file__, MAKERS, plan)
