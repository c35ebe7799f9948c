"""What an on-line training is made of: policy, reference, critic, scorers and prompts, as they are when it begins."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trueline.core.errors import ConfigError
from trueline.core.subject import Subject
from trueline.language.batches import Codec, Item
from trueline.language.models import attach_lora, check_learns, context_of, end_tokens
from trueline.language.objectives import Likelihood
from trueline.language.online.critic import Critic, critic_for, learnt_by_itself
from trueline.language.online.prompts import Asked, prompts_for
from trueline.language.online.settings import Online, OnlinePpo, limits_of
from trueline.language.sampler import check_for_training
from trueline.language.scorers import Judged, opened, referred
from trueline.language.scores import Scorer
from trueline.language.sources import load
from trueline.language.subject import LanguageModel, ScoreModel

__all__ = ["Made"]


@dataclass(slots=True)
class Made:
    """Everything that is there before the first step."""

    policy: LanguageModel
    reference: Any  # a model of its own; None without one, and where it is the policy with its adapters off
    critic: ScoreModel | None
    scorer: Scorer
    judges: tuple[Subject, ...]  # models that score
    limits: Mapping[str, float]  # by cost
    asked: Asked
    kept: tuple[tuple[Item, ...], ...]  # text that the policy is to keep writing, by source

    @classmethod
    def of(
        cls,
        config: Online,
        inputs: Mapping[str, Subject],
        rng: np.random.Generator,
        root: Path,
        device: torch.device | str = "cpu",
    ) -> Made:
        """From the settings and the inputs; models that a scorer names by reference are read from runs in `root`.

        Raises ConfigError for settings and inputs that do not fit, RunError for a reference to nothing.
        """
        check_for_training(config.sampling)
        roles = tuple(name for one in config.scorers for name in one.inputs)
        inputs = {**inputs, **referred(config.scorers, inputs, root)}
        policy = _start(config, inputs.get("policy"), rng)
        check_learns(policy.model.parameters(), "policy")
        policy.model.to(device)
        frozen = _frozen(inputs.get("reference"), policy) if config.needs_reference else None
        if frozen is not None:
            frozen.to(device)
        judges = tuple(inputs[name] for name in dict.fromkeys(roles) if name in inputs)
        for judge in judges:
            if isinstance(judge, LanguageModel | ScoreModel):
                (judge if isinstance(judge, ScoreModel) else judge.model).to(device)
        scorer = opened(config.scorers, Judged(policy, config.sampling), inputs)
        return cls(
            policy=policy,
            reference=frozen,
            critic=_critic(config, policy, tuple(scorer.costs), rng),
            scorer=scorer,
            judges=judges,
            limits=limits_of(config, tuple(scorer.costs)),
            asked=prompts_for(config, policy, root),
            kept=_kept(config, policy, root),
        )


def _start(config: Online, given: Subject | None, rng: np.random.Generator) -> LanguageModel:
    """The policy to train."""
    if given is None:
        return LanguageModel.of(config.model, rng)
    if not isinstance(given, LanguageModel):
        raise ConfigError(f"the warm start is a {given.kind!r}. Give a language model.")
    if config.model.lora is None:
        return given
    adapted = attach_lora(given.model, config.model.lora, int(rng.integers(2**63)))
    return LanguageModel(adapted, given.tokenizer, given.parent, given.history)


def _frozen(given: Subject | None, policy: LanguageModel) -> Any:
    """The reference: given, or a copy of the policy, or None where its adapters can be switched off."""
    if given is not None and not isinstance(given, LanguageModel):
        raise ConfigError(f"the reference is a {given.kind!r}. Give a language model.")
    if given is None and hasattr(policy.model, "disable_adapter"):
        return None
    return copy.deepcopy(policy.model if given is None else given.model).requires_grad_(False).eval()


def _critic(
    config: Online, policy: LanguageModel, costs: tuple[str, ...], rng: np.random.Generator
) -> ScoreModel | None:
    """With a head for the reward, each cost, and the divergence where it is a signal."""
    if not isinstance(config, OnlinePpo):
        return None
    heads = ("reward", *(f"cost_{name}" for name in costs), *(("kl",) if config.kl.is_signal else ()))
    adapts = isinstance(config.critic, Critic) and config.critic.lora is not None
    made = critic_for(config.critic, policy, heads, int(rng.integers(2**63)) if adapts else 0)
    check_learns(learnt_by_itself(config.critic, made).values(), "critic")
    return made


def _kept(config: Online, policy: LanguageModel, root: Path) -> tuple[tuple[Item, ...], ...]:
    if config.ptx is None:
        return ()
    data, learns = config.ptx.data, Likelihood()
    model, tokenizer = policy.model, policy.tokenizer
    codec = Codec(tokenizer, data, context_of(model), end_tokens(model, tokenizer))
    sources = tuple(
        tuple(
            item
            for record, number in zip(table.rows, table.numbers, strict=True)
            for item in learns.items(record, codec, f"row {number} of {table.name}")
        )
        for table in load(data, Likelihood.accepts, root)
    )
    if not all(sources):
        raise ConfigError("no row of ptx.data is left to learn from. Give rows that fit the context.")
    return sources
