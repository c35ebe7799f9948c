"""`Agent`: one algorithm in one environment, by the original's names and settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trueline import api
from trueline.compat.omnisafe import settings
from trueline.compat.omnisafe.algorithms import find
from trueline.compat.omnisafe.envs.core import logger_of
from trueline.compat.omnisafe.evaluator import Evaluation, Evaluator
from trueline.compat.omnisafe.figures import Result, curve, draw, result
from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.core.progress import stage
from trueline.core.recipe import Plan as RecipePlan
from trueline.core.recipe import check_config, recipe_config
from trueline.core.resuming import refuse_changes
from trueline.core.run import read_manifest
from trueline.core.subject import Subject
from trueline.cycle.training import resume_training

__all__ = ["Agent", "Result"]


class Agent:
    """Trains an algorithm of the original in an environment, then evaluates, plots and films what came of it.

    `plan` is the row, preset and settings that were made of what was given; `config` the row's complete settings;
    `run` the folder of the run, once it is trained.
    """

    def __init__(
        self,
        algo: str,
        env_id: str,
        train_terminal_cfgs: Mapping[str, Any] | None = None,
        custom_cfgs: Mapping[str, Any] | None = None,
    ) -> None:
        """algo: a name of `ALGORITHMS["all"]`; custom_cfgs: nested settings as in the original's files
        (train_cfgs, algo_cfgs, logger_cfgs, model_cfgs, lagrange_cfgs, control_cfgs, env_cfgs, seed);
        train_terminal_cfgs: the same for train_cfgs alone, laid over it.

        Nothing is trained or written yet. Raises UnknownName or ConfigError for what no row can do; settings that are
        accepted and have no effect are listed once.
        """
        algorithm = find(algo)
        self.algo, self.env_id, self.algo_type = algo, env_id, algorithm.type
        self.custom_cfgs, self.train_terminal_cfgs = custom_cfgs, train_terminal_cfgs
        self.plan = settings.plan(algorithm, env_id, custom_cfgs, train_terminal_cfgs)
        self.config = _config(self.plan)
        if algorithm.type == "offline" and "dataset" not in self.plan.settings:
            raise ConfigError(
                f"{algo} learns from recorded data. Give its file as train_cfgs.dataset: the original downloads the "
                "data sets that it has names for, and nothing is downloaded here."
            )
        check_config(self.plan.recipe, self.config, Path(self.plan.root))
        self.run: Path | None = None
        if self.plan.idle:
            stage("without effect here: " + "; ".join(f"{key} ({why})" for key, why in self.plan.idle.items()))

    def learn(self, *, id: str | None = None) -> Result:
        """Train, and return mean return, cost and length of the last episodes.

        With the `id` of a run that was begun with the same settings, that run is gone on with, or read if it is done.
        Raises Stopped after a signal, Diverged, BadWorld, and ConfigError for an `id` that has other settings.
        """
        root = Path(self.plan.root)
        log = logger_of(self.env_id)
        log.take()  # of an earlier training in this process

        def watch(_: int, __: Subject) -> dict[str, float]:
            return log.take()

        if id is not None and (root / id / "manifest.json").exists():
            self._check_same(root / id)
            self.run = resume_training(root / id, watch)
        else:
            self.run = api.train(
                self.plan.recipe,
                {"env": self.env_id, **self.plan.settings},
                preset=self.plan.preset,
                seed=self.plan.seed,
                root=root,
                id=id,
                wandb=self.plan.wandb,
                watch=watch,
            ).folder
        return result(self.run)

    def plot(self, smooth: int = 1) -> Path:
        """Return and cost over training, with the limit, as progress.png in the run; `smooth` epochs are averaged."""
        run = self._trained()
        limit = getattr(self.config, "cost_limit", None)
        return draw(
            run / "progress.png",
            {self.algo: [curve(run)]},
            limit if isinstance(limit, float) else None,
            smooth,
            f"{self.algo}, {self.env_id}",
        )

    def evaluate(self, num_episodes: int = 10, cost_criteria: float = 1.0) -> Evaluation:
        """Return and cost of so many episodes of the trained policy; see `Evaluator.evaluate`."""
        return self._evaluator().evaluate(num_episodes, cost_criteria)

    def render(
        self,
        num_episodes: int = 10,
        render_mode: str = "rgb_array",
        camera_name: str = "track",
        width: int = 256,
        height: int = 256,
    ) -> Evaluation:
        """Film so many episodes of the trained policy into the run's video/; see `Evaluator.render`.

        Every step is a frame; without a graphics card one of 256 x 256 takes about 20 ms, a hundred times the step.
        """
        return self._evaluator(render_mode, camera_name, width, height).render(num_episodes)

    def _trained(self) -> Path:
        if self.run is None:
            raise ConfigError(f"this {self.algo} agent has not been trained. Call learn() first.")
        return self.run

    def _evaluator(
        self, render_mode: str = "rgb_array", camera_name: str | None = None, width: int = 256, height: int = 256
    ) -> Evaluator:
        evaluator = Evaluator(render_mode)
        evaluator.load_saved(
            self._trained(), render_mode=render_mode, camera_name=camera_name, width=width, height=height
        )
        return evaluator

    def _check_same(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        same = manifest["name"] == self.plan.recipe and manifest["seed"] == self.plan.seed
        if not same:
            raise ConfigError(f"run {folder} is of another row or seed. Give another id, or another log_dir.")
        refuse_changes(manifest, self.config)


def _config(plan: settings.Plan) -> Config:
    """The row's complete settings. Raises ConfigError that names keys as they were given."""
    nested = RecipePlan(recipe=plan.recipe).with_settings({"env": plan.env, **plan.settings})
    try:
        return recipe_config(plan.recipe, plan.preset, nested.config)
    except ConfigError as error:
        named = [f"{key} is {source}" for key, source in plan.sources.items() if key in str(error)]
        raise ConfigError(f"{error} ({'; '.join(named)})" if named else str(error)) from None
