"""Looking after a training while it runs: evaluations on layouts of their own, the best policy so far, costs paid.

An evaluation plays whole episodes of the stochastic policy in a second copy of its world, with the observations'
statistics as they stand: it draws from a random stream of its own and changes nothing, so that a training with
evaluations makes the same policy as one without. Its layouts are fresh ones of the training range, never those held out
for audits; the best of many evaluations looks better than it is, and only an audit can say how good it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from trueline.core.config import Config
from trueline.core.errors import ConfigError, RunError
from trueline.core.run import Run, found_by
from trueline.core.streams import case_seeds
from trueline.core.subject import Subject, save_subject
from trueline.evidence.experiments.aggregate import Merit, merit
from trueline.evidence.experiments.endings import FINAL_EPISODES
from trueline.evidence.statistics import tail_mean
from trueline.rl import worlds
from trueline.rl.augmentation.kinds import Chance, Cvar, Expected, LimitOn, StepRate
from trueline.rl.env import Step, VectorEnv
from trueline.rl.evaluate import Act, Episodes, policy_actions, run_episodes
from trueline.rl.policy import Acts, WorldRef

__all__ = [
    "BEST",
    "CostAccount",
    "Evaluation",
    "Played",
    "Watching",
    "limited",
]

BEST = "best"  # artefact folder of the best policy so far: `load_subject(run.folder / "artefacts" / BEST)`

Array = NDArray[np.float64]


# --- what learning itself cost ---


class CostAccount:
    """What a whole training has cost so far, and what of it lay beyond the limits."""

    def __init__(self, costs: Sequence[str], limit: Sequence[float] | None) -> None:
        """costs: K names.  limit [K]; None where no limit is on what an episode costs, and nothing lies beyond one."""
        self.costs, self.limit = tuple(costs), None if limit is None else np.array(limit, dtype=np.float64)
        self.total = np.zeros(len(self.costs))  # [K] of all steps
        self.violations = np.zeros(len(self.costs), np.int64)  # [K] episodes that cost more than the limit
        self.regret = np.zeros(len(self.costs))  # [K] Σ E·(J_C − d)₊: epochs below the limit do not make up for others

    def end_epoch(self, episode_cost: Sequence[Array] | Array) -> None:
        """Counts the E episodes of one more epoch.  episode_cost [E, K] undiscounted.

        The limit is on an expectation, so that regret is of the epoch's mean cost, J_C of the policies that played it;
        an episode beyond the limit is a violation whatever the others cost.
        """
        if self.limit is not None:
            beyond = np.reshape(episode_cost, (-1, len(self.limit))) - self.limit
            self.violations += (beyond > 0.0).sum(axis=0)
            self.regret += np.maximum(beyond.sum(axis=0), 0.0)

    def logged(self) -> dict[str, float]:
        """All of it by what is logged."""
        found = {}
        for k, name in enumerate(self.costs):
            found[f"train/total_{name}"] = float(self.total[k])
            if self.limit is not None:
                found[f"train/violations_{name}"] = float(self.violations[k])
                found[f"train/regret_{name}"] = float(self.regret[k])
        return found

    def state_dict(self) -> dict[str, Any]:
        """What has been counted."""
        return {"total": self.total, "violations": self.violations, "regret": self.regret}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from there."""
        self.total, self.violations, self.regret = state["total"], state["violations"], state["regret"]


# --- evaluations ---


class Played(NamedTuple):
    """E episodes, and the share of an episode's steps that cost anything."""

    episodes: Episodes
    rate: Array  # [E, K]


def limited(limit_on: LimitOn, played: Played, limit: Array) -> list[float]:
    """What a limit is on, measured on E episodes: the mean cost, a step rate, a chance, a tail mean.

    limit: [K] d; [] where nothing is limited, and nothing is measured.
    """
    cost = played.episodes.cost[:, : len(limit)]
    match limit_on:
        case StepRate():
            return [float(x) for x in played.rate[:, : len(limit)].mean(axis=0)]
        case Chance():
            return [float(x) for x in (cost > limit).mean(axis=0)]
        case Cvar():
            return [tail_mean(column, 1.0 - limit_on.level) for column in cost.T]
        case _:
            return [float(x) for x in cost.mean(axis=0)]


class Evaluation(Config):
    """How a training evaluates itself."""

    every: int = Field(5, ge=1)  # epochs from one evaluation to the next; the last epoch has one too
    episodes: int = Field(16, ge=1)  # of each evaluation, on as many fresh layouts
    final_episodes: int = Field(100, ge=1)  # of the policy that the training returns
    num_envs: int = Field(16, ge=1)  # episodes run side by side
    deterministic: bool = False  # play the same layouts without action noise too, logged as eval/deterministic_…


class Watching:
    """The watch of a training (`Run.watch`) that evaluates, logs `eval/…` and keeps the best policy.

    Whoever watched the run before is still asked, and what both found is logged. `limits` are d by cost, and `limit_on`
    is what of an episode's costs they limit; the best policy keeps them first and has the highest return then
    (`merit`), the earlier one of equals. A run that was killed and resumed evaluates the same policies on the same
    layouts again, so that it keeps the same one.
    """

    def __init__(
        self,
        config: Evaluation,
        run: Run,
        limits: Mapping[str, float],
        epoch_steps: int,
        epochs: int,
        limit_on: LimitOn = Expected(),
        made: Callable[[WorldRef, int, int], VectorEnv] = worlds.of,
    ) -> None:
        """epoch_steps: steps in an epoch, as the run logs them; epochs: of the whole training.

        made: from a policy's world, N and threads to N copies of it, whose first costs are those of `limits`.
        """
        self.config, self.run, self.limits, self.limit_on = config, run, dict(limits), limit_on
        self.epoch_steps, self.epochs, self.made = epoch_steps, epochs, made
        self.before = run.watch
        self._of: WorldRef | None = None
        self._worlds: dict[int, VectorEnv] = {}

    def __call__(self, step: int, subject: Subject) -> dict[str, float]:
        """What the watch before found, and the figures of an evaluation where one is due."""
        found = {} if self.before is None else found_by(self.before, step, subject)
        epoch = step // self.epoch_steps
        if epoch % self.config.every and epoch < self.epochs:
            return found
        policy = _acting(subject)
        played, figures = self._evaluated(policy, self.config.episodes)
        held = limited(self.limit_on, played, np.array(list(self.limits.values())))
        reached = merit(
            float(played.episodes.episode_return.mean()),
            dict(zip(self.limits, held, strict=True)),
            dict(zip(self.limits, self._bounds(), strict=True)),
        )
        self._keep_best(step, subject, reached, figures)
        taken = sorted(found.keys() & figures.keys())
        if taken:
            raise ConfigError(f"the watch returned {taken[0]!r}, which evaluations measure. Give it another name.")
        return found | figures

    def finish(self, step: int, subject: Subject) -> None:
        """Evaluate the policy that the training returns, keep its episodes as an artefact, and close the worlds.

        Reports read P(cost > d) from those episodes: each has a layout of its own and their number was fixed before.
        """
        policy = _acting(subject)
        episodes = self._evaluated(policy, self.config.final_episodes)[0].episodes
        costs = self._world(policy.world, self.config.final_episodes).costs
        self.run.write_json(
            FINAL_EPISODES,
            {
                "step": step,
                "seed": episodes.seed,
                "return": episodes.episode_return,
                "cost": {name: episodes.cost[:, k] for k, name in enumerate(costs)},
                "length": episodes.length,
            },
        )
        self.close()

    def close(self) -> None:
        """Let the worlds go."""
        for world in self._worlds.values():
            world.close()
        self._worlds, self._of = {}, None

    def _bounds(self) -> list[float]:
        """What each limited quantity may come to: d, or a probability."""
        if isinstance(self.limit_on, Chance):
            return [self.limit_on.probability] * len(self.limits)
        return list(self.limits.values())

    def _evaluated(self, policy: Acts, n: int) -> tuple[Played, dict[str, float]]:
        rng = self.run.rng("evaluation")
        seeds, noise = case_seeds("train", 0, n, rng), int(rng.integers(2**63 - 1))
        env = self._world(policy.world, n)
        played = _played(env, policy, seeds, noise, False)
        figures = _figures(played.episodes, env.costs, "eval/")
        if self.config.deterministic:
            without = _played(env, policy, seeds, noise, True)
            figures |= _figures(without.episodes, env.costs, "eval/deterministic_")
        return played, figures

    def _world(self, ref: WorldRef, episodes: int) -> VectorEnv:
        """Copies of the policy's world, made again when what the policy observes of its limits has changed."""
        if ref != self._of:
            self.close()
            self._of = ref
        size = min(self.config.num_envs, episodes)
        if size not in self._worlds:
            self._worlds[size] = self.made(ref, size, self.run.manifest["threads"])
        return self._worlds[size]

    def _keep_best(self, step: int, subject: Subject, found: Merit, figures: Mapping[str, float]) -> None:
        folder = self.run.folder / "artefacts" / BEST
        if (kept := _kept(folder)) is not None and kept >= found:
            return
        folder.mkdir(parents=True, exist_ok=True)
        # A subject is saved beside the card that says how good it is; the card is written last and says it is whole.
        save_subject(subject, folder)
        self.run.write_json(f"{BEST}/best.json", {"step": step, "merit": found._asdict(), "figures": dict(figures)})


def _acting(subject: Subject) -> Acts:
    if not isinstance(subject, Acts):
        raise RunError(f"a {subject.kind!r} does not act, so that it cannot be evaluated in training.")
    return subject


def _played(env: VectorEnv, policy: Acts, seeds: NDArray[np.uint32], noise: int, deterministic: bool) -> Played:
    rate = np.zeros((len(seeds), len(env.costs)))
    first = -env.num_envs

    def count(t: int, _: NDArray[Any], step: Step, counted: NDArray[np.bool_]) -> None:
        nonlocal first
        first += env.num_envs if t == 0 else 0
        rows = np.flatnonzero(counted)
        rate[first + rows] += (step.cost[rows] > 0.0) / env.max_episode_steps

    def act(wave: int) -> Act:
        return policy_actions(policy, np.random.default_rng([noise, wave]), deterministic)

    return Played(run_episodes(env, seeds, act, count), rate)


def _figures(episodes: Episodes, costs: tuple[str, ...], prefix: str) -> dict[str, float]:
    means = {name: float(mean) for name, mean in zip(costs, episodes.cost.mean(axis=0), strict=True)}
    found = {"return": float(episodes.episode_return.mean()), "length": float(episodes.length.mean()), **means}
    return {prefix + name: value for name, value in found.items()}


def _kept(folder: Path) -> Merit | None:
    """The merit of the policy that is kept in `folder`; None where there is none."""
    path = folder / "best.json"
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["merit"]
        return Merit(bool(found["feasible"]), float(found["shortfall"]), float(found["episode_return"]))
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{path} is damaged. Remove it to let the best policy be found anew.") from None
