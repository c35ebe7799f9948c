"""Making a data set: episodes of several behaviours of one world, in shares, as an artefact that offline rows refer to.

A behaviour is uniform random actions or a policy that an earlier run made. Mixtures are by episode, as in published
offline studies: a share of 0.25 of 400 episodes is 100 episodes of that behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.core.run import Run, resolve
from trueline.core.subject import Subject, load_subject
from trueline.rl.env import Obs, VectorEnv
from trueline.rl.evaluate import Act, policy_actions
from trueline.rl.offline.data import FILE, OfflineData, joined, record
from trueline.rl.policy import Acts
from trueline.rl.spaces import ActionCodec
from trueline.rl.training import one_world, training_seeds
from trueline.rl.worlds import make

RANDOM = "random"


class Source(Config):
    """One behaviour of a mixture."""

    policy: str = RANDOM  # "random", or run://ID of a run that made a policy
    share: float = Field(1.0, gt=0)  # of the episodes, relative to the other sources'
    deterministic: bool = False  # the policy's mode in place of draws


class Recording(Config):
    """Which world, how many episodes, by whom."""

    env: str = "SafetyPointCircle1-v0"
    env_options: Mapping[str, Any] = {}  # keyword arguments of the world
    num_envs: int = Field(16, ge=1)  # N
    episodes: int = Field(400, ge=1)
    sources: tuple[Source, ...] = Field((Source(),), min_length=1)


def apportioned(total: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """`total` split by shares into whole numbers, what is left to the largest remainders.  [S] -> [S]."""
    exact = total * shares / shares.sum()
    found = np.floor(exact).astype(np.int64)
    left = total - int(found.sum())
    found[np.argsort(found - exact, kind="stable")[:left]] += 1
    return found


def random_actions(env: VectorEnv, rng: np.random.Generator) -> Act:
    """Uniform actions, of each environment its own."""
    action = ActionCodec.of(env.action_space)

    def act(_: int, __: Obs) -> NDArray[Any]:
        if action.kind == "continuous":
            return rng.uniform(-1.0, 1.0, (env.num_envs, action.width)).astype(np.float32)
        return action.to_world(rng.integers(action.sizes, size=(env.num_envs, action.width)).astype(np.float32))

    return act


class RecordingRecipe:
    """`offline-data`: leaves `data.parquet` as artefact and subject."""

    name: ClassVar[str] = "offline-data"
    Config: ClassVar[type[Recording]] = Recording
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def inputs_of(self, config: Recording) -> Mapping[str, bool]:  # noqa: ARG002
        """No input: policies that act are named in the settings."""
        return {}

    def check(self, config: Recording, root: Path) -> None:
        """Raises, before a run exists, what `train` would raise at its start."""
        with one_world(config.env, config.env_options):
            _behaviours(config, root)

    def train(self, config: Recording, run: Run, inputs: Mapping[str, Subject]) -> OfflineData:  # noqa: ARG002
        """Record. A run that is killed begins again: its seeds are those of the run's streams.

        Raises ConfigError for a source that does not act, or belongs to another world.
        """
        run.restore()
        policies = _behaviours(config, run.folder.parent)
        env = make(config.env, config.num_envs, run.manifest["threads"], **config.env_options)
        env.seed_source = training_seeds(run)
        counts = apportioned(config.episodes, np.array([source.share for source in config.sources]))
        parts = []
        try:
            for source, policy, count in zip(config.sources, policies, counts.tolist(), strict=True):
                rng = run.rng("behaviour")
                act = random_actions(env, rng) if policy is None else policy_actions(policy, rng, source.deterministic)
                if count:
                    parts.append(record(env, act, count))
        finally:
            env.close()
        made = {
            "seed": run.seed,
            "sources": [
                {**source.model_dump(mode="json"), "episodes": count}
                for source, count in zip(config.sources, counts.tolist(), strict=True)
            ],
        }
        whole = replace(joined(parts), world=config.env, options=dict(config.env_options), made=made)
        whole.save(run.artefact(FILE).parent)
        found = whole.finished()
        scalars = {f"data/{name}": cost for name, cost in zip(whole.costs, found.cost.mean(0), strict=True)}
        run.log(len(whole), **{"data/return": float(found.episode_return.mean()), **scalars})
        return whole


def _behaviours(config: Recording, root: Path) -> list[Acts | None]:
    """The policy of each source; None for random actions."""
    found: list[Acts | None] = []
    for source in config.sources:
        if source.policy == RANDOM:
            found.append(None)
            continue
        subject = load_subject(resolve(source.policy, root))
        if not isinstance(subject, Acts):
            raise ConfigError(f"{source.policy} is a {subject.kind!r} and does not act. Give a run that made a policy.")
        if subject.world.id != config.env:
            raise ConfigError(
                f"{source.policy} acts in {subject.world.id}, but the recording is of {config.env}. Give one world."
            )
        if subject.world.augmentation is not None:
            raise ConfigError(f"{source.policy} sees more than {config.env} shows. Give a policy without augmentation.")
        found.append(subject)
    return found


OFFLINE_DATA = RecordingRecipe()
