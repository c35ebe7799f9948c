"""What no training on its own replies could begin with, told before a run of it exists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trueline.core.run import resolve
from trueline.core.subject import describe
from trueline.language.models import ModelRef, check_reference
from trueline.language.online.making import refused_start
from trueline.language.online.prompts import asked_of, chats_of, columns_wanted, failing_prompts, tables_of
from trueline.language.online.settings import Asking
from trueline.language.sampler import check_for_training
from trueline.language.scorers import Endpoint, references
from trueline.language.subject import LanguageModel
from trueline.language.windows import Window, window_in, window_of

__all__ = ["check_asking", "check_prompts", "window_for"]


def check_asking(config: Asking, root: Path) -> None:
    """Raises what a training would for sampling, its model's folder, models named by run, keys of endpoints.

    What is asked has to leave room for a reply, which depends on the policy, and so on the inputs: see `check_prompts`.
    """
    check_for_training(config.sampling)
    check_reference(config.model)
    for name in references(config.scorers):
        resolve(name, root)
    for one in config.scorers:
        if isinstance(one, Endpoint):
            one.key()


def check_prompts(config: Asking, root: Path, inputs: Mapping[str, Path]) -> None:
    """Raises what a training would for a policy that is none, for prompts, their columns, and those too long for it.

    inputs: folders of subjects by role.  No weight is read. How much room a model on the hub has is not known before it
    is loaded.
    """
    window = window_for(config.model, inputs)
    if window is not None:
        asked_of(config, window, root)
        return
    tables = tables_of(config.prompts, root)
    for table in tables:
        chats_of(table)
    columns_wanted(config, tables, root)
    for findings in config.findings:
        failing_prompts(findings, root)


def window_for(ref: ModelRef, inputs: Mapping[str, Path]) -> Window | None:
    """Of the policy that a training begins with: an input, or what the reference names; None where nobody knows yet.

    Raises ConfigError for an input of another kind.
    """
    folder = inputs.get("policy")
    if folder is None:
        return window_of(ref)
    kind = describe(folder)["kind"]
    if kind != LanguageModel.kind:
        raise refused_start(kind)
    return window_in(folder, ref.template)
