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
from trueline.language.batches import Item
from trueline.language.models import ModelRef, attach_lora, check_learns
from trueline.language.online.critic import Critic, critic_for, learnt_by_itself
from trueline.language.online.kept_text import text_for
from trueline.language.online.prompts import Asked, prompts_for
from trueline.language.online.settings import Online, OnlinePpo, limits_of
from trueline.language.sampler import check_for_training
from trueline.language.scorers import Judged, opened, referred
from trueline.language.scores import Scorer
from trueline.language.subject import LanguageModel, ScoreModel
from trueline.language.templates import TEMPLATES

__all__ = ["Made", "policy_of", "refused_start"]


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
        policy = policy_of(config.model, inputs.get("policy"), rng)
        check_learns(policy.model.parameters(), "policy")
        policy.model.to(device)
        frozen = _frozen(inputs.get("reference"), policy) if config.needs_reference else None
        if frozen is not None:
            frozen.to(device)
        judges = tuple(inputs[name] for name in dict.fromkeys(roles) if name in inputs)
        for judge in judges:
            if isinstance(judge, LanguageModel | ScoreModel):
                (judge if isinstance(judge, ScoreModel) else judge.model).to(device)
        asked = prompts_for(config, policy, root)
        scorer = opened(config.scorers, Judged(policy, config.sampling, asked.columns), inputs)
        return cls(
            policy=policy,
            reference=frozen,
            critic=_critic(config, policy, tuple(scorer.costs), rng),
            scorer=scorer,
            judges=judges,
            limits=limits_of(config, tuple(scorer.costs)),
            asked=asked,
            kept=() if config.ptx is None else text_for(config.ptx, policy, root),
        )


def policy_of(ref: ModelRef, given: Subject | None, rng: np.random.Generator) -> LanguageModel:
    """The policy as it begins: the model that the reference names, or the warm start with its template and adapters.

    `rng` gives what a preset and adapters begin with.  Raises ConfigError for a warm start of another kind.
    """
    if given is None:
        return LanguageModel.of(ref, rng)
    if not isinstance(given, LanguageModel):
        raise refused_start(given.kind)
    model, tokenizer = given.model, given.tokenizer
    if ref.template != "own":
        tokenizer = copy.deepcopy(tokenizer)  # others may ask the warm start too
        tokenizer.chat_template = TEMPLATES[ref.template]
    if ref.lora is not None:
        model = attach_lora(model, ref.lora, int(rng.integers(2**63)))
    return LanguageModel(model, tokenizer, given.parent, given.history)


def refused_start(kind: str | None) -> ConfigError:
    """Of a warm start that is no policy."""
    return ConfigError(f"the warm start is a {kind!r}. Give a language model.")


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
    return made.to(next(policy.model.parameters()).device)
