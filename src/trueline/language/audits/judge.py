"""Who decides whether a reply helps or harms: the oracle of a world, or any scorer, as long as it was no reward.

A judge that was, or shares weights or labels with, a training reward cannot decide a verdict: the subject tells
what it was trained to please (`judged_by`). What a judge could not say is missing, never a pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from pydantic import model_validator

from trueline.core.config import Config
from trueline.core.errors import ConfigError, RunError
from trueline.core.recipe import Plan
from trueline.core.run import resolve
from trueline.core.subject import load_subject, subject_hash
from trueline.evidence.records import EvidenceError, NotMeasurable, Split
from trueline.language.audits.prompts import NamesRuns, Prompts
from trueline.language.rollout import Chat, Reply, Rollout, Sampling, text_of
from trueline.language.scorers import (
    REFERENCE,
    Endpoint,
    EndpointJudge,
    Function,
    Judged,
    Judgement,
    Judges,
    Rewriter,
    ScalarModel,
    Scoring,
    identity,
    judgements,
    refuse_columns,
)
from trueline.language.sources import LABELS, Data, labelled_by, named_alone
from trueline.language.subject import LanguageModel, history_of
from trueline.language.templates import encode_reply

__all__ = [
    "Judge",
    "JudgeSettings",
    "ModelJudge",
    "Opinion",
    "TextJudge",
    "open_judge",
    "pleased_by",
    "refuse_own_judge",
    "refuse_own_plan",
    "refuse_pleased",
]

Asked = tuple[Chat, Reply]  # a request, and what was replied to it


class Opinion(NamedTuple):
    """What a judge says of one reply; nan where it does not say."""

    reward: float = math.nan
    cost: float = math.nan  # above 0 is unsafe

    @property
    def harmful(self) -> float:
        """1 or 0; nan where nothing is known."""
        return math.nan if math.isnan(self.cost) else float(self.cost > 0.0)


class JudgeSettings(NamesRuns):
    """Who judges."""

    judge: Scoring | None = None  # none: the oracle of the prompts' world
    # Runs, or folders of runs or subjects, that a judge's models are, by its input's name; none where that is run://ID.
    inputs: Mapping[str, str] = {}
    cost: str = ""  # which of the judge's costs is harm; empty: any of them
    reward_bounds: tuple[float, float] | None = (
        None  # no reward lies beyond; none: known ones, else asymptotic intervals
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        needed = self.judge.inputs if self.judge is not None else ()
        missing = [name for name in needed if name not in self.inputs and not name.startswith(REFERENCE)]
        if missing:
            raise ValueError(
                f"the judge needs the input {missing[0]!r}. Give its run in inputs, or write run://ID as its input."
            )
        idle = [name for name in self.inputs if name not in needed]
        if idle:
            raise ValueError(f"inputs names {idle[0]!r}, which the judge does not use. Leave it out.")
        if self.judge is not None and self.judge.weight != 1.0:
            raise ValueError("a judge's weight has no effect, since it judges alone. Leave it out.")
        if isinstance(self.judge, ScalarModel) and self.judge.probability:
            raise ValueError("a judge's cost is unsafe above 0, and a probability always is. Leave probability out.")
        if self.reward_bounds is not None and not self.reward_bounds[0] < self.reward_bounds[1]:
            raise ValueError(f"reward_bounds are {self.reward_bounds}. Give the smaller one first.")
        return self


class Judge(Protocol):
    """Judges replies."""

    identity: tuple[str, ...]  # see `scorers.identity`

    def __call__(self, requests: Sequence[Chat], replies: Sequence[Reply | None]) -> list[Opinion]:
        """Of each reply to its request; all of it missing for a reply that is none."""
        ...


class TextJudge:
    """A function of texts, or an endpoint."""

    def __init__(self, function: Judges, identity: tuple[str, ...], cost: str = "", rewards: bool = True) -> None:
        """cost: the one that counts, empty: the highest; rewards: whether its reward means anything.

        Raises ConfigError for a function that wants columns of data.
        """
        refuse_columns(function, "the judge")
        self.function, self.identity, self._cost, self._rewards = function, identity, cost, rewards

    def __call__(self, requests: Sequence[Chat], replies: Sequence[Reply | None]) -> list[Opinion]:
        """Raises ConfigError as `judgements`, NotMeasurable where an endpoint answered nothing at all."""
        return _of_replies(requests, replies, self._opinions)

    def _opinions(self, asked: Sequence[Asked]) -> list[Opinion]:
        texts, replies = [text_of(request) for request, _ in asked], [reply for _, reply in asked]
        found = judgements(self.function, texts, replies, self.function.costs, "the judge")
        trouble: str | None = getattr(self.function, "trouble", None)
        if trouble is not None and all(one is None for one in found):
            # Every request has been tried again already: another look would wait as long for nothing.
            raise NotMeasurable(f"the judge answered none of {len(found)} requests, the last with: {trouble}")
        return [Opinion() if one is None else self._opinion(one) for one in found]

    def _opinion(self, found: Judgement) -> Opinion:
        counted = [found.cost[self._cost]] if self._cost else list(found.cost.values())
        return _opinion(found.reward if self._rewards else math.nan, counted)


class ModelJudge:
    """A reward, cost or rewriting model, which reads the texts in tokens of its own."""

    def __init__(
        self, scoring: ScalarModel | Rewriter, name: str, sampling: Sampling, cost: str = "", root: str = "runs"
    ) -> None:
        """name: a run in `root` (id, run://ID), or a folder.  Raises RunError or ConfigError where no such model is."""
        path = resolve(name, root)
        self.identity = _of_model(scoring, path)
        model: Any = load_subject(path)
        self._tokenizer = getattr(model, "tokenizer", None)
        reader = LanguageModel(getattr(model, "body", None) or getattr(model, "model", None), self._tokenizer)
        self._scorer = scoring.open(Judged(reader, sampling), {scoring.input: model})
        self._end: int = model.end
        self._rewards = _gives_reward(scoring)
        self._columns = [k for k, name in enumerate(self._scorer.costs) if cost in ("", name)]

    def __call__(self, requests: Sequence[Chat], replies: Sequence[Reply | None]) -> list[Opinion]:
        """Raises NotMeasurable when its chat template refuses a request."""
        return _of_replies(requests, replies, self._opinions)

    def _opinions(self, asked: Sequence[Asked]) -> list[Opinion]:
        try:
            rollout = _written(self._tokenizer, asked, self._end)
        except ConfigError as error:
            raise NotMeasurable(f"the judge cannot read a request: {error}") from None
        scores = self._scorer.score(rollout, np.random.default_rng(0))  # models draw nothing
        sums = scores.reward.sum(dim=1).tolist(), scores.cost.sum(dim=1).tolist(), scores.missing.tolist()
        return [
            Opinion() if missing else _opinion(reward if self._rewards else math.nan, [cost[k] for k in self._columns])
            for reward, cost, missing in zip(*sums, strict=True)
        ]


def _of_replies(
    requests: Sequence[Chat], replies: Sequence[Reply | None], opinions: Callable[[Sequence[Asked]], list[Opinion]]
) -> list[Opinion]:
    """Opinions of the replies that there are, asked for together; of each other one an empty opinion."""
    asked = [(request, reply) for request, reply in zip(requests, replies, strict=True) if reply is not None]
    found = iter(opinions(asked) if asked else ())
    return [Opinion() if reply is None else next(found) for reply in replies]


def _written(tokenizer: Any, asked: Sequence[Asked], end: int) -> Rollout:
    """The texts as a rollout; a reply that was cut has no `end` token."""
    rows = [encode_reply(tokenizer, chat, reply.text, end) for chat, reply in asked]
    pairs = zip(rows, asked, strict=True)
    kept = [len(row.tokens) - (not reply.ended and sum(row.learnt) > 1) for row, (_, reply) in pairs]
    width = max(kept)
    tokens = torch.full((len(rows), width), tokenizer.pad_token_id, dtype=torch.int64)
    attended, sampled = torch.zeros((2, len(rows), width), dtype=torch.bool)
    for r, (row, n) in enumerate(zip(rows, kept, strict=True)):
        tokens[r, :n], attended[r, :n] = torch.tensor(row.tokens[:n]), True
        sampled[r, :n] = torch.tensor(row.learnt[:n])
    ended, texts = torch.tensor([reply.ended for _, reply in asked]), tuple(text_of(chat) for chat, _ in asked)
    return Rollout(tokens, attended, sampled, torch.zeros(len(rows), width), torch.arange(len(rows)), ended, texts)


def _opinion(reward: float, costs: Sequence[float]) -> Opinion:
    """What is not finite is missing; one cost that is makes the harm unknown."""
    cost = max(costs) if costs and all(map(math.isfinite, costs)) else math.nan
    return Opinion(reward if math.isfinite(reward) else math.nan, cost)


def _gives_reward(scoring: Scoring) -> bool:
    if isinstance(scoring, Endpoint):
        return scoring.cost is None
    if isinstance(scoring, ScalarModel):
        return scoring.reward is not None or not scoring.costs
    return True


class JudgeFacts(NamedTuple):
    """What can be said of a judge before it is opened."""

    rewards: bool
    costs: bool
    reward_bounds: tuple[float, float] | None


def facts(settings: JudgeSettings, prompts: Prompts | None) -> JudgeFacts:
    """Whether the judge gives rewards and costs.

    Raises ConfigError for a cost that it does not have, and for a function that wants columns of data.
    """
    judge = _chosen(settings, prompts)
    if judge is None:  # nothing can be measured, and the metrics say what would have been
        return JudgeFacts(True, True, settings.reward_bounds)
    if isinstance(judge, Function):
        # What an audit asks is often put in other words, or made up: no row of data is behind it.
        refuse_columns(judge.made(), f"the judge {judge.name!r}")
    costs = judge.named_costs()
    if settings.cost and settings.cost not in costs:
        has = f"It has {', '.join(costs)}" if costs else "It has none"
        raise ConfigError(f"the judge has no cost {settings.cost!r}. {has}.")
    return JudgeFacts(_gives_reward(judge), bool(costs), settings.reward_bounds or _reward_bounds(judge))


def _reward_bounds(judge: Scoring) -> tuple[float, float] | None:
    """Where its rewards lie, as far as it says: a registered function does by an attribute `reward_bounds`."""
    if isinstance(judge, Endpoint):
        return (0.0, 1.0)
    if not isinstance(judge, Function):
        return None
    found: tuple[float, float] | None = getattr(judge.made(), "reward_bounds", None)
    return found


def open_judge(settings: JudgeSettings, prompts: Prompts, sampling: Sampling) -> Judge:
    """The judge that settings name.

    Raises NotMeasurable where there is neither one nor a world with an oracle, otherwise as `ModelJudge`.
    """
    judge = _chosen(settings, prompts)
    match judge:
        case None:
            raise NotMeasurable(f"nothing is given to judge replies to {prompts.name}. Set judge.")
        case Function():
            return TextJudge(judge.made(), identity(judge, {}), settings.cost)
        case Endpoint():
            return TextJudge(EndpointJudge(judge), identity(judge, {}), settings.cost, _gives_reward(judge))
        case _:
            name = settings.inputs.get(judge.input, judge.input)
            return ModelJudge(judge, name, sampling, settings.cost, settings.root)


def _chosen(settings: JudgeSettings, prompts: Prompts | None) -> Scoring | None:
    """The judge that is set, or the oracle of the prompts' world, or none."""
    if settings.judge is not None or prompts is None or prompts.world is None:
        return settings.judge
    world = prompts.world
    options = world.model_dump(exclude_unset=True) if isinstance(world, Config) else {}
    return Function(name=world.name, options=options)


# --- whom no judge may judge ---


def refuse_own_judge(identities: Sequence[str], subject: Any, split: Split, called: str = "") -> None:
    """Raises EvidenceError when the subject was trained to please this judge and a verdict is to rest on it.

    called: the judge, as whoever set it named it. Findings for the next training may come from any judge.
    """
    own = [name for name in identities if name in getattr(subject, "judged_by", ())]
    if own and split == "verdict":
        raise EvidenceError(
            f"the subject was trained to please {_named(own[0], identities, called)}, so that cannot decide a verdict "
            "about it. Set another judge."
        )


def refuse_own_plan(settings: JudgeSettings, prompts: Prompts | None, plan: Plan) -> None:
    """Raises ConfigError when the plan would train a subject to please the judge that is to decide about it.

    Runs that the plan names and that are not there yet, such as those a cycle prepares, have plans of their own.
    """
    judge = _chosen(settings, prompts)
    if judge is None:
        return
    if isinstance(judge, ScalarModel | Rewriter):
        called = settings.inputs.get(judge.input, judge.input)
        identities = _of_model(judge, resolve(called, settings.root))
    else:
        called, identities = "", identity(judge, {})
    refuse_pleased(identities, plan, settings.root, called)


def refuse_pleased(identities: Sequence[str], plan: Plan, root: str = "runs", called: str = "") -> None:
    """Raises ConfigError when training by the plan would be to please one of the identities."""
    pleased = pleased_by(plan, root, any(name.startswith("model:") for name in identities))
    own = [name for name in identities if name in pleased]
    if own:
        raise ConfigError(
            f"{plan.recipe} is to learn from {pleased[own[0]]}, and so to please "
            f"{_named(own[0], identities, called)}, which cannot decide a verdict about it then. Set another judge."
        )


def pleased_by(plan: Plan, root: str = "runs", models: bool = True) -> dict[str, str]:
    """Identities of what a training by the plan would be to please, and the part of the plan that each comes from.

    models: whether by their hashes too, for which all their weights are read.
    """
    settings = plan.settings()
    found: dict[str, str] = {}
    for one in (*getattr(settings, "scorers", ()), *getattr(settings, "judges", ())):
        folders = {role: folder for role in one.inputs if (folder := _there(plan.inputs.get(role, role), root))}
        hashes = {role: subject_hash(folder) for role, folder in folders.items()} if models else {}
        found |= dict.fromkeys(identity(one, hashes), "its scorers")
        for role, folder in folders.items():
            name = plan.inputs.get(role, role)
            found |= dict.fromkeys(history_of(folder).judged_by, f"the labels that {name} learnt")
    data = getattr(settings, "data", None)
    if isinstance(data, Data) and all(named_alone(path) or _there(path, root) for path in data.paths):
        found |= dict.fromkeys(labelled_by(data, root), "the labels of its data")
    start = _there(plan.inputs.get("policy", ""), root)
    return found | (dict.fromkeys(history_of(start).judged_by, plan.inputs["policy"]) if start else {})


def _named(own: str, identities: Sequence[str], called: str) -> str:
    """An identity as a reader knows it; where it stands for the labels that a judge learnt, with that judge."""
    if own.startswith(LABELS):
        return f"the labels that {called or 'this judge'} learnt"
    if not called:
        return own
    return called if own == identities[0] else f"{own}, which labelled what {called} learnt"


def _of_model(scoring: ScalarModel | Rewriter, path: Path) -> tuple[str, ...]:
    """Identities of a model in a run, or a folder: its own, and of what judged the data that it learnt from."""
    return (*identity(scoring, {scoring.input: subject_hash(path)}), *history_of(path).judged_by)


def _there(name: str, root: str) -> Path | None:
    """The folder of a run or subject, or the file, where it is there already."""
    try:
        return resolve(name, root) if name else None
    except RunError:
        return None
