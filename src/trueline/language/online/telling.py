"""What a run keeps of replies for who reads it: figures of a step, some replies of a few, a last look at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trueline.core.files import write_text
from trueline.core.run import Run
from trueline.language.rollout import Rollout, Sampling
from trueline.language.sampler import replies_of
from trueline.language.scores import Scores
from trueline.language.signals import episode_cost
from trueline.language.subject import LanguageModel

__all__ = ["Telling", "figures_of", "in_short"]


def figures_of(rollout: Rollout, scores: Scores, costs: Sequence[str]) -> dict[str, float]:
    """Mean length, share of replies cut and not scored; of those scored the mean reward and costs, if there are any."""
    scored = ~scores.missing
    found = {
        "length": float(rollout.sampled.sum(dim=1).float().mean()),
        "cut": float((~rollout.ended).float().mean()),
        "missing": float(scores.missing.float().mean()),
    }
    if scored.any():  # without a reply that was scored there is no estimate
        found["reward"] = float(scores.reward.sum(dim=1)[scored].mean())
        found |= dict(zip(costs, episode_cost(scores).mean(dim=0).tolist(), strict=True))
    return found


def in_short(figures: Mapping[str, float], costs: Sequence[str]) -> str:
    """The reward and the costs among them, for whoever waits."""
    if "reward" not in figures:
        return "nothing was scored"
    own = " ".join(f"{figures[name]:.2f}" for name in costs)
    return f"reward {figures['reward']:.2f}" + (f" cost {own}" if own else "")


@dataclass(frozen=True, slots=True)
class Telling:
    """Writes replies down, with what they earned and cost."""

    run: Run
    policy: LanguageModel
    sampling: Sampling
    costs: tuple[str, ...]

    def write_down(self, step: int, n: int, rollout: Rollout, scores: Scores) -> None:
        """The first n replies of a step."""
        some = Rollout(*(getattr(rollout, name)[:n] for name in Rollout.__slots__))
        first = Scores(scores.reward[:n], scores.cost[:n], scores.missing[:n])
        if len(some.tokens):
            self.run.write_json(f"completions/step-{step:06d}.json", self._told(some, first))

    def show(self, rollout: Rollout, scores: Scores) -> None:
        """Replies to prompts of the data, for whoever compares trainings on the same data."""
        told = "\n\n".join(_in_words(one) for one in self._told(rollout, scores))
        write_text(self.run.artefact("media/replies.txt"), told + "\n")
        shown = {"kind": "text", "file": "replies.txt", "caption": "Replies to the first prompts of the training data."}
        self.run.write_json("media/list.json", [{**shown, "alt": "prompts, each with a reply and its scores"}])

    def _told(self, rollout: Rollout, scores: Scores) -> list[dict[str, Any]]:
        reward, cost = scores.reward.sum(dim=1).tolist(), scores.cost.sum(dim=1).tolist()
        texts = zip(rollout.asked, replies_of(rollout, self.policy, self.sampling), strict=True)
        return [
            {
                "prompt": prompt,
                "reply": reply.text,
                "ended": reply.ended,
                "reward": None if scores.missing[r] else reward[r],
                "cost": None if scores.missing[r] else dict(zip(self.costs, cost[r], strict=True)),
            }
            for r, (prompt, reply) in enumerate(texts)
        ]


def _in_words(told: Mapping[str, Any]) -> str:
    scored = "not scored"
    if told["reward"] is not None:
        scored = ", ".join(f"{name} {x:.2f}" for name, x in {"reward": told["reward"], **told["cost"]}.items())
    return f"› {told['prompt']}\n{told['reply'] or '(nothing)'}{'' if told['ended'] else ' …'}\n[{scored}]"
