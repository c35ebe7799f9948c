"""A dry run of on-line learning: what its steps would ask, how much they would read and write, and hold in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from trueline.core.streams import Streams
from trueline.core.subject import Subject
from trueline.language.data_order import DataOrder
from trueline.language.forward import Memory, activation_bytes, cache_bytes, weight_bytes
from trueline.language.models import context_of
from trueline.language.online.critic import SharedCritic, learnt_by_itself
from trueline.language.online.making import Made
from trueline.language.online.prompts import Asked
from trueline.language.online.settings import Online, OnlinePpo
from trueline.language.rehearsal import MARKS, SHOWN, DryRun
from trueline.language.subject import LanguageModel, ScoreModel
from trueline.language.templates import prompts_tokens

__all__ = ["Foreseen", "foreseen", "judges_bytes", "memory_of", "rehearsed"]


class Foreseen(NamedTuple):
    """What would be asked, and how long the replies can make it."""

    tokens: int  # of the prompts that are asked, each once, with the longest reply
    widest: int  # prompt with its reply
    rows: tuple[str, ...]  # the first three prompts as the model reads them


def foreseen(policy: LanguageModel, asked: Asked, order: DataOrder, n: int, most: int) -> Foreseen:
    """Of the next n prompts of an order, with replies of `most` tokens where the context leaves as many."""
    prompts = [prompts_tokens(policy.tokenizer, list(source)) for source in asked.chats]
    context = context_of(policy.model)
    wide = [[min(len(ids) + most, context) for ids in source] for source in prompts]
    places, rows = order.take(n), []
    for place in places[:SHOWN]:
        ids = prompts[place.source][place.row]
        text = policy.tokenizer.decode(ids, skip_special_tokens=False)
        rows.append(f"{text}{MARKS[0]}at most {wide[place.source][place.row] - len(ids)} tokens{MARKS[1]}")
    return Foreseen(sum(wide[place.source][place.row] for place in places), max(map(max, wide)), tuple(rows))


def rehearsed(config: Online, inputs: Mapping[str, Subject] | None, root: Path | str, seed: int) -> DryRun:
    """What a training with these settings and this seed would do.  Raises what `train` would raise at its start."""
    streams = Streams(seed)
    made = Made.of(config, inputs or {}, streams.rng("model"), Path(root))
    steps = config.steps(made.asked.epoch)
    order = made.asked.order(config.prompts.shuffle, int(streams.rng("order").integers(2**31)))
    found = foreseen(made.policy, made.asked, order, steps * config.batch_size, config.sampling.max_tokens)
    return DryRun(
        steps=steps,
        tokens=config.samples * found.tokens,
        memory=memory_of(config, made, found.widest),
        rows=found.rows,
        facts=made.asked.facts,
        at_most=True,
    )


def memory_of(config: Online, made: Made, width: int) -> Memory:
    """Bytes of training, estimated from shapes; every reply as long as it may be, the longest prompt before each."""
    policy = weight_bytes(made.policy.model.parameters())
    learns = weight_bytes(p for p in made.policy.model.parameters() if p.requires_grad)
    rows = config.micro_batch or config.minibatch or config.replies
    passes = [activation_bytes(made.policy.model, rows, width, head=True, checkpointing=config.gradient_checkpointing)]
    critic = 0
    if made.critic is not None and isinstance(config, OnlinePpo):
        own = weight_bytes(learnt_by_itself(config.critic, made.critic).values())
        shares = isinstance(config.critic, SharedCritic)
        critic = 3 * own + (own if shares else weight_bytes(made.critic.parameters()))
        if not shares:
            passes.append(
                activation_bytes(made.critic.body, rows, width, head=False, checkpointing=config.gradient_checkpointing)
            )
    return Memory(
        weights=policy,
        gradients=learns,
        moments=2 * learns,
        reference=0 if made.reference is None else weight_bytes(made.reference.parameters()),
        # Policy and critic are read one after the other.
        activations=max(passes) // (2 if config.autocast else 1),
        critic=critic,
        scorers=judges_bytes(made.judges),
        cache=cache_bytes(made.policy.model, min(config.replies, getattr(config.sampler, "rows", 128)), width),
    )


def judges_bytes(judges: Iterable[Subject]) -> int:
    """Of models that score."""
    return sum(
        weight_bytes(judge.parameters() if isinstance(judge, ScoreModel) else judge.model.parameters())
        for judge in judges
        if isinstance(judge, ScoreModel | LanguageModel)
    )
