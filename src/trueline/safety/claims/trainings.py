"""Trainings that claims share: each is a run of its own beside the claims' runs, and is made once.

An *arm* is a row of the table of recipes with the settings it is trained by. Under a seed it is one training, the run
ARM-DIGEST-sSEED, DIGEST that of all its settings, so that claims about the same arm find the same run. One that was
stopped or killed goes on from its last checkpoint; one that is finished, or has diverged, is not trained again. Its
numbers are kept in `trainings/ID.json` beside the runs, and where that file is nobody asks for the run: claims that
take hours are tested in parts, on one machine after the other, by taking those files along.

What a training came to is told in numbers by two accounts:

    return, cost, violating     of the policy it made: whole episodes on fresh layouts, actions drawn;
                                all arms of a seed are evaluated on the same layouts
    last return, last cost      of the training itself, as it logged its epochs: means over the last tenth of its steps,
    unsteadiness, regret        mean |J_C − d| over their second half, mean (J_C − d)₊ over all of them

Of several costs the largest mean is told, and of teams the return that their agents have on average.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.core import registry
from trueline.core.config import Config, digest
from trueline.core.errors import Diverged, RunError
from trueline.core.files import write_json
from trueline.core.metrics import read_metrics
from trueline.core.recipe import recipe_config
from trueline.core.run import Run, read_manifest, status_of
from trueline.core.streams import case_seeds
from trueline.core.subject import load_subject, save_subject, subject_hash
from trueline.evidence.experiments.endings import FINAL_EPISODES
from trueline.rl import worlds
from trueline.rl.evaluate import policy_actions, run_episodes
from trueline.rl.policy import Acts
from trueline.rl.teams.policy import TeamPolicy

__all__ = [
    "KEPT",
    "NUMBERS",
    "Arm",
    "Logged",
    "Played",
    "Shelf",
    "logged",
    "measured",
    "of_policy",
    "of_training",
    "played",
    "trained",
]

NUMBERS = ("return", "cost", "violating", "last return", "last cost", "unsteadiness", "regret", "cpu_s")
KEPT = "trainings"  # folder of what trainings came to, beside their runs
LAST, SECOND_HALF = 0.9, 0.5  # shares of the steps behind which a training's own figures are taken
SIDE_BY_SIDE = 64  # most episodes of an evaluation at once
_LAYOUTS, _ACTIONS = range(2)  # what an evaluation draws

Array = NDArray[np.float64]
Row = dict[str, float]


class Arm(Config):
    """A row, and the settings it is trained by: a preset, and what is laid over it."""

    recipe: str
    preset: str | None = None
    config: Mapping[str, Any] = {}

    def settings(self, given: Mapping[str, Any], cost_limit: float) -> Config:
        """The recipe's whole configuration with `given` laid over the arm's, and the limit where it knows of one."""
        known = registry.load("recipe", self.recipe).Config.model_fields
        limits = {"cost_limit": cost_limit} if "cost_limit" in known else {}
        return recipe_config(self.recipe, self.preset, {**self.config, **limits, **given})


class Shelf(NamedTuple):
    """Where trainings lie, and the versions of packages that they have to be made with; None: any."""

    root: Path
    versions: Mapping[str, str] | None

    @classmethod
    def around(cls, folder: Path) -> Shelf:
        """That of the run which `folder` lies in; `folder` itself where it lies in none."""
        for above in (folder, *folder.parents):
            if (above / "manifest.json").exists():
                return cls(above.parent, read_manifest(above)["versions"])
        return cls(folder, None)


def _id(name: str, config: Config, seed: int) -> str:
    return f"{name}-{digest(config)[:10]}-s{seed}"


# --- making one ---


def trained(name: str, arm: Arm, config: Config, seed: int, shelf: Shelf) -> Path:
    """The folder of the arm's finished training under a seed: made now, gone on with, or as it is.

    A training that diverges is finished too, as its status tells. Raises RunError for one that is in use or was made
    with other versions of packages; Stopped after a signal.
    """
    id = _id(name, config, seed)
    folder = shelf.root / id
    status = status_of(folder)
    if status is not None:
        _refuse_other_versions(folder, read_manifest(folder)["versions"], shelf)
    if status in ("done", "diverged"):
        return folder
    run = Run.open_or_create(shelf.root, kind="train", name=arm.recipe, config=config, seed=seed, id=id)
    try:
        with run, run.interruptible():
            save_subject(registry.load("recipe", arm.recipe).train(config, run, {}), folder)
            run.finish("done", summary={"subject": subject_hash(folder)})
    except Diverged:
        pass  # a claim counts the seed as one without a value
    return folder


def _refuse_other_versions(path: Path, then: Mapping[str, str], shelf: Shelf) -> None:
    if shelf.versions is None:
        return
    for package in sorted({*then, *shelf.versions}):
        had, has = then.get(package, "none"), shelf.versions.get(package, "none")
        if had != has:
            raise RunError(
                f"{path} was trained with {package} {had}, and this claim was begun with {has}. "
                "Test the claim in another folder of runs, or move that one away."
            )


# --- what it came to ---


class Played(NamedTuple):
    """E whole episodes of a policy."""

    seed: NDArray[np.uint32]  # [E] layouts
    episode_return: Array  # [E]
    cost: Array  # [E, K] undiscounted
    length: NDArray[np.int64]  # [E]
    costs: tuple[str, ...]  # K names


def played(policy: Acts, episodes: int, seed: int) -> Played:
    """Episodes with drawn actions on as many layouts, the same ones for every policy of a seed.

    Layouts are fresh ones of the training range: those held out for verdicts are the audits'.
    """
    env = worlds.of(policy.world, min(episodes, SIDE_BY_SIDE))
    layouts = case_seeds("train", 0, episodes, np.random.default_rng([seed, _LAYOUTS]))
    try:
        found = run_episodes(
            env, layouts, lambda wave: policy_actions(policy, np.random.default_rng([seed, _ACTIONS, wave]))
        )
    finally:
        env.close()
    # A team's world lists its agents' rewards among the costs, and a policy without limits may know of no cost.
    names = tuple(getattr(policy, "costs", ())) or env.costs
    own = [env.costs.index(name) for name in names]
    agents = len(policy.agents) if isinstance(policy, TeamPolicy) else 1
    return Played(found.seed, found.episode_return / agents, found.cost[:, own], found.length, names)


class Logged(NamedTuple):
    """What a training logged of its episodes, R times."""

    step: Array  # [R]
    episode_return: Array  # [R]
    cost: Array  # [R, K]
    steps: int  # of the whole training

    def since(self, share: float) -> NDArray[np.bool_]:
        """[R] what was logged after that share of the steps; at least the last."""
        late = self.step > share * self.steps
        late[-1] = True
        return late


def logged(folder: Path, costs: Sequence[str]) -> Logged:
    """What the run in `folder` logged of its episodes and these costs."""
    steps, rows = 0, []
    for row in read_metrics(folder / "metrics.jsonl"):
        steps = int(row["step"])
        if "train/return" in row:
            rows.append([row["step"], row["train/return"], *(row[f"train/{name}"] for name in costs)])
    table = np.array(rows, dtype=np.float64).reshape(len(rows), 2 + len(costs))
    return Logged(table[:, 0], table[:, 1], table[:, 2:], steps)


def of_policy(found: Played, limit: float) -> Row:
    """What a policy came to: mean return, largest mean cost, share of episodes beyond the limit."""
    return {
        "return": float(found.episode_return.mean()),
        "cost": float(found.cost.mean(axis=0).max()),
        "violating": float((found.cost > limit).any(axis=1).mean()),
    }


def of_training(found: Logged, limit: float) -> Row:
    """What a training came to by its own log; nan where it logged no episode, as one from data does not.

    Where epochs have as many episodes each, the regret is the training's own (`CostAccount`) by episode.
    """
    if not len(found.step):
        return dict.fromkeys(("last return", "last cost", "unsteadiness", "regret"), math.nan)
    late, second = found.since(LAST), found.since(SECOND_HALF)
    return {
        "last return": float(found.episode_return[late].mean()),
        "last cost": float(found.cost[late].mean(axis=0).max()),
        "unsteadiness": float(np.abs(found.cost[second] - limit).mean(axis=0).max()),
        "regret": float(np.maximum(found.cost - limit, 0.0).mean(axis=0).max()),
    }


def measured(name: str, arm: Arm, config: Config, limit: float, episodes: int, seed: int, folder: Path) -> Row:
    """NUMBERS of one arm under one seed, its training made or found; all nan where it diverged.

    folder: anywhere in the run of the claim that asks.  The training's run keeps the episodes of its policy, and
    `trainings/ID.json` the numbers with where they are from. Raises RunError as `trained` does, and for a file there
    that is none.
    """
    shelf = Shelf.around(folder)
    kept = shelf.root / KEPT / f"{_id(name, config, seed)}.json"
    asked = {"limit": limit, "episodes": episodes}
    found = _found(kept, asked, shelf)
    if found is None:
        run = trained(name, arm, config, seed, shelf)
        found = _told(run, limit, episodes, seed)
        manifest = read_manifest(run)
        facts = {key: manifest[key] for key in ("id", "name", "status", "config_digest", "versions", "git", "machine")}
        kept.parent.mkdir(exist_ok=True)
        write_json(kept, {"run": facts, "seed": seed, **asked, "figures": found})
    return found


def _found(kept: Path, asked: Mapping[str, float], shelf: Shelf) -> Row | None:
    """The numbers in a file of `measured`; None where there is none, or they answer another question."""
    if not kept.exists():
        return None
    try:
        row = json.loads(kept.read_text(encoding="utf-8"))
        versions, asked_then = row["run"]["versions"], {key: row[key] for key in asked}
        figures = {key: float(row["figures"][key]) for key in NUMBERS}
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{kept} does not tell of a training ({error}). Remove it, and it is made again.") from error
    _refuse_other_versions(kept, versions, shelf)
    return figures if asked_then == asked else None


def _told(run: Path, limit: float, episodes: int, seed: int) -> Row:
    """NUMBERS of a finished training, its policy evaluated."""
    manifest = read_manifest(run)
    if manifest["status"] != "done":
        return dict.fromkeys(NUMBERS, math.nan)
    policy = load_subject(run)
    if not isinstance(policy, Acts):
        raise RunError(f"{run} made a {policy.kind!r}, which does not act. Give an arm that trains a policy.")
    final = played(policy, episodes, seed)
    own = logged(run, final.costs)
    _keep(run, final, own.steps)
    return of_policy(final, limit) | of_training(own, limit) | {"cpu_s": float(manifest["spent"]["cpu_s"])}


def _keep(run: Path, final: Played, step: int) -> None:
    """The policy's episodes as an artefact of its run, where reports of runs look for them."""
    kept = {
        "step": step,
        "seed": final.seed,
        "return": final.episode_return,
        "cost": dict(zip(final.costs, final.cost.T, strict=True)),
        "length": final.length,
    }
    (run / "artefacts").mkdir(exist_ok=True)
    write_json(run / "artefacts" / FINAL_EPISODES, kept)
