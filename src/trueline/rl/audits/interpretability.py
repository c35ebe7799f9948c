"""Whether a policy can be understood: by a small model that stands in for it, and by which inputs it rests on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.linear_model import OrthogonalMatchingPursuit
from sklearn.tree import DecisionTreeRegressor

from trueline.core.streams import case_seeds
from trueline.evidence.records import Axis, Case, Metric, Outcome, Principle, Split
from trueline.rl.audits.layouts import (
    Arena,
    LayoutAudit,
    acting,
    cost_column,
    flat,
    flat_codec,
    layout_cases,
    mean_action,
    new_noise,
    requirement,
    seeds_of,
    visits,
)
from trueline.rl.audits.robustness import Attackable
from trueline.rl.env import Obs, VectorEnv
from trueline.rl.evaluate import Act, run_episodes
from trueline.rl.policy import Acts, Differentiable

__all__ = [
    "Attribution",
    "AttributionConfig",
    "SparseLinear",
    "Surrogate",
    "SurrogateConfig",
    "Tree",
    "fidelity",
    "integrated_gradients",
    "replacement_curve",
]

Array = NDArray[np.float64]
Rows = NDArray[np.float32]


_NEGLIGIBLE = 1e-12  # variance of an action, in units of its range squared


# --- surrogate -------------------------------------------------------------------------------------------------------


class Model(Protocol):
    """A small model of a policy's mean action."""

    size: int

    def __call__(self, rows: Rows) -> Array:
        """Mean actions [B, A] of flat observations [B, D]."""
        ...


class Tree:
    """A regression tree with at most `leaves` leaves, all action dimensions at once (CART, Breiman et al. 1984)."""

    def __init__(self, rows: Rows, action: Array, leaves: int) -> None:
        # A constant action has a variance of rounding size, which is nothing to split on.
        self._tree = DecisionTreeRegressor(
            max_leaf_nodes=leaves, min_impurity_decrease=_NEGLIGIBLE, random_state=0
        ).fit(rows, action)
        self.size = int(self._tree.get_n_leaves())

    def __call__(self, rows: Rows) -> Array:
        """[B, D] -> [B, A]."""
        predicted: Array = self._tree.predict(rows).reshape(len(rows), -1)
        return predicted


class SparseLinear:
    """One linear function per action dimension, each of at most `inputs` sensors (orthogonal matching pursuit).

    Sensors are standardised first, so that the choice does not depend on their units; the answer is clipped to [-1, 1]
    as the world clips actions. `size` counts the coefficients that are not zero.
    """

    def __init__(self, rows: Rows, action: Array, inputs: int) -> None:
        x = rows.astype(np.float64)
        self._mean, spread = x.mean(axis=0), x.std(axis=0)
        # A sensor that never moved says nothing, and what is left of it after rounding must not be blown up.
        live = np.flatnonzero(spread > 1e-6 * (1.0 + np.abs(self._mean)))
        self._weight = np.zeros((x.shape[1], action.shape[1]))
        self._offset = action.mean(axis=0)
        z = (x[:, live] - self._mean[live]) / spread[live]
        for j in range(action.shape[1]):
            if len(live) and action[:, j].var() > _NEGLIGIBLE:
                with warnings.catch_warnings():
                    # It warns when fewer sensors already say everything, which is the best that can happen.
                    warnings.simplefilter("ignore", RuntimeWarning)
                    fit = OrthogonalMatchingPursuit(n_nonzero_coefs=min(inputs, len(live))).fit(z, action[:, j])
                self._weight[live, j] = fit.coef_ / spread[live]
                self._offset[j] = fit.intercept_
        self.size = int(np.count_nonzero(self._weight))

    def __call__(self, rows: Rows) -> Array:
        """[B, D] -> [B, A]."""
        return np.clip((rows - self._mean) @ self._weight + self._offset, -1.0, 1.0)


def fidelity(action: Array, predicted: Array) -> float:
    """R² = 1 − Σ‖a − â‖²/Σ‖a − ā‖² over one layout's states, clipped to [-1, 1].  [T, A], [T, A] -> number.

    Where the policy always does the same, it is 1 for a model that says so and -1 for one that does not. Clipping makes
    the mean over layouts bounded; a model worse than -1 is useless either way.
    """
    error = float(np.square(action - predicted).sum())
    total = float(np.square(action - action.mean(axis=0)).sum())
    negligible = _NEGLIGIBLE * action.size
    if total <= negligible:
        return 1.0 if error <= negligible else -1.0
    return float(np.clip(1.0 - error / total, -1.0, 1.0))


class SurrogateConfig(LayoutAudit):
    """Settings of `Surrogate`."""

    leaves: int = Field(64, ge=2)  # of the tree
    inputs: int = Field(8, ge=1)  # sensors each linear function may use
    fit_layouts: int = Field(16, ge=1)  # layouts of the training range on which the models are fitted
    fit_states: int = Field(10_000, ge=100)  # states kept of those, evenly spaced
    tree_at_least: float | None = Field(0.8, ge=-1, le=1)  # required fidelity of the tree; none: only reported
    linear_at_least: float | None = Field(None, ge=-1, le=1)  # required fidelity of the linear model


class Surrogate:
    """A tree and a sparse linear model distilled from the policy's mean action, judged on layouts that they never saw.

    Fidelity is R² on the states that the policy itself visits. It also stands in for the policy: the tree's action plus
    the policy's own noise of that moment, on the same layouts, against the policy (Bastani, Pu & Solar-Lezama 2018 make
    the case for judging the tree by how it plays).
    """

    name = "interpretability/surrogate"
    principle = Principle.INTERPRETABILITY
    needs: type = Acts
    Config = SurrogateConfig
    axis: Axis | None = None

    def __init__(self, config: SurrogateConfig) -> None:
        self.config = config
        tree = requirement("at_least", config.tree_at_least, config.confidence)
        linear = requirement("at_least", config.linear_at_least, config.confidence)
        change = (-config.cost_bound, config.cost_bound)
        self.metrics: Sequence[Metric] = (
            Metric("tree fidelity", "mean", "R²", (-1.0, 1.0), tree, worse="low"),
            Metric("linear fidelity", "mean", "R²", (-1.0, 1.0), linear, worse="low"),
            Metric("return lost by the tree", "paired", "per episode"),
            Metric("cost added by the tree", "paired", "per episode", change),
            Metric("tree leaves", "extreme", "leaves", (0.0, float(config.leaves))),
            Metric("linear coefficients", "extreme", "coefficients"),
        )
        self._arena = Arena(config.num_envs, config.threads)
        self._fitted: tuple[Acts, Tree, SparseLinear] | None = None

    def cases(self, _: Acts, split: Split, round: int, n: int, rng: np.random.Generator) -> Sequence[Case]:
        """Fresh layouts."""
        return layout_cases(split, round, n, rng)

    def _models(self, subject: Acts) -> tuple[Tree, SparseLinear]:
        """Fitted once per subject, on layouts of the training range that depend on nothing but their number."""
        if self._fitted is None or self._fitted[0] is not subject:
            c = self.config
            seeds = case_seeds("train", 0, c.fit_layouts, np.random.default_rng(0))
            seen = visits(self._arena.world(subject, c.fit_layouts), subject, seeds, noise=0)
            rows, action = np.concatenate(seen.vector), np.concatenate(seen.mean)
            kept = np.unique(np.linspace(0, len(rows) - 1, min(c.fit_states, len(rows))).astype(np.intp))
            tree, linear = Tree(rows[kept], action[kept], c.leaves), SparseLinear(rows[kept], action[kept], c.inputs)
            self._fitted = (subject, tree, linear)
        return self._fitted[1:]

    def measure(self, subject: Acts, cases: Sequence[Case], rng: np.random.Generator) -> Sequence[Outcome | None]:
        """The policy, then the tree in its place, on every layout."""
        c, seeds, noise = self.config, seeds_of(cases), new_noise(rng)
        env = self._arena.world(subject, len(seeds))
        column = cost_column(env, c.cost, c.cost_bound)
        tree, linear = self._models(subject)
        seen = visits(env, subject, seeds, noise)
        policy = acting(subject, noise)
        played = run_episodes(env, seeds, lambda wave: _in_place_of(policy(wave), subject, tree, env))
        outcomes = []
        for i in range(len(seeds)):
            rows, action = seen.vector[i], seen.mean[i]
            values = {
                "tree fidelity": fidelity(action, tree(rows)),
                "linear fidelity": fidelity(action, linear(rows)),
                "return lost by the tree": float(seen.episodes.episode_return[i] - played.episode_return[i]),
                "cost added by the tree": float(played.cost[i, column] - seen.episodes.cost[i, column]),
                "tree leaves": float(tree.size),
                "linear coefficients": float(linear.size),
            }
            outcomes.append(Outcome(values, detail={"seed": int(seeds[i])}))
        return outcomes


def _in_place_of(act: Act, policy: Acts, model: Callable[[Rows], Array], env: VectorEnv) -> Act:
    """The model's action plus what the policy's draw differs from its own mean by: â + (a − μ)."""
    codec = flat_codec(env)

    def stand_in(t: int, obs: Obs) -> NDArray[Any]:
        drawn = act(t, obs)
        return model(flat(codec, obs)) + (drawn - mean_action(policy, obs))

    return stand_in


# --- attribution -----------------------------------------------------------------------------------------------------


def _clipped_mean(policy: Differentiable, rows: Rows) -> Array:
    with torch.no_grad():
        action = policy.mean_action(torch.as_tensor(rows)).clamp(-1.0, 1.0)
    return action.numpy().astype(np.float64)


def integrated_gradients(policy: Differentiable, rows: Rows, baseline: Rows, steps: int) -> Array:
    """Attributions of each action dimension to each sensor, [B, A, D] (Sundararajan, Taly & Yan 2017, eq. 1).

    rows [B, D], baseline [D]. The path integral uses `steps` midpoints; Σ_d of it tends to μ(x) − μ(baseline) as they
    grow and equals it for a linear policy with one. A policy that ignores its input gets zeros.
    """
    x, origin = torch.as_tensor(rows), torch.as_tensor(baseline)
    total: torch.Tensor | None = None
    for j in range(steps):
        at = (origin + (j + 0.5) / steps * (x - origin)).requires_grad_(True)
        action = policy.mean_action(at)
        slopes = []
        for a in range(action.shape[1]):
            slope = None
            if action.requires_grad:
                (slope,) = torch.autograd.grad(action[:, a].sum(), at, retain_graph=True, allow_unused=True)
            slopes.append(torch.zeros_like(x) if slope is None else slope)
        gradient = torch.stack(slopes, dim=1)  # [B, A, D]
        total = gradient if total is None else total + gradient
    assert total is not None
    attribution: Array = ((x - origin)[:, None] * total / steps).numpy().astype(np.float64)
    return attribution


def replacement_curve(policy: Differentiable, rows: Rows, other: Rows, order: NDArray[np.intp], share: Array) -> Array:
    """How far the mean action moves as sensors of `rows` are replaced by those of `other`, in the given order.

    rows, other [B, D], order [B, D] (sensors, first replaced first), share [P] of the sensors -> [B, P]: root mean
    square over action dimensions of μ(replaced) − μ(rows), actions clipped to [-1, 1], so a number in [0, 2].
    """
    b, d = rows.shape
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(d), (b, d)), axis=1)
    count = np.round(share * d).astype(np.intp)
    mixed = np.where(rank[None] < count[:, None, None], other, rows).astype(np.float32)  # [P, B, D]
    action = _clipped_mean(policy, mixed.reshape(-1, d)).reshape(len(share), b, -1)
    change: Array = np.sqrt(np.square(action - _clipped_mean(policy, rows)).mean(axis=2)).T
    return change


class AttributionConfig(LayoutAudit):
    """Settings of `Attribution`."""

    steps: int = Field(8, ge=1)  # midpoints of the path integral
    states: int = Field(16, ge=1)  # of each episode, evenly spaced
    orders: int = Field(8, ge=1)  # random orders the attribution is compared with
    points: int = Field(11, ge=2)  # of each curve
    baseline_layouts: int = Field(
        8, ge=1
    )  # layouts of the training range whose mean observation stands for "no sensor"
    at_least: float | None = 0.0  # required of both advantages over a random order; none: only reported


class Attribution:
    """Whether the inputs that an attribution names are those that the policy rests on.

    Sensors are ranked by Σ_a |integrated gradient|. Deletion replaces them by their mean, highest rank first: the
    action should move sooner than in random order. Insertion starts from the means and puts sensors back, highest rank
    first: the action should return sooner (Petsiuk, Das & Saenko 2018; Samek et al. 2017). Both are areas over the
    share of sensors, as advantages over random orders at the same states.
    """

    name = "interpretability/attribution"
    principle = Principle.INTERPRETABILITY
    needs: type = Attackable
    Config = AttributionConfig

    def __init__(self, config: AttributionConfig) -> None:
        self.config = config
        self._share = np.round(np.linspace(0.0, 1.0, config.points), 10)  # 0.3, not 0.30000000000000004
        self.axis: Axis | None = Axis("sensors replaced", "share", tuple(self._share.tolist()))
        required = requirement("at_least", config.at_least, config.confidence)
        self.metrics: Sequence[Metric] = (
            Metric("deletion advantage", "paired", "action", (-2.0, 2.0), required, worse="low"),
            Metric("insertion advantage", "paired", "action", (-2.0, 2.0), required, worse="low"),
        )
        self._arena = Arena(config.num_envs, config.threads)
        self._baseline: tuple[Acts, Rows] | None = None

    def cases(self, _: Acts, split: Split, round: int, n: int, rng: np.random.Generator) -> Sequence[Case]:
        """Fresh layouts."""
        return layout_cases(split, round, n, rng)

    def _mean_observation(self, subject: Acts) -> Rows:
        if self._baseline is None or self._baseline[0] is not subject:
            n = self.config.baseline_layouts
            seen = visits(
                self._arena.world(subject, n), subject, case_seeds("train", 0, n, np.random.default_rng(0)), noise=0
            )
            mean = np.concatenate(seen.vector).mean(axis=0, dtype=np.float64)
            self._baseline = (subject, mean.astype(np.float32))
        return self._baseline[1]

    def measure(self, subject: Attackable, cases: Sequence[Case], rng: np.random.Generator) -> Sequence[Outcome | None]:
        """The curves of every layout's states, averaged."""
        c, seeds, noise = self.config, seeds_of(cases), new_noise(rng)
        baseline = self._mean_observation(subject)
        seen = visits(self._arena.world(subject, len(seeds)), subject, seeds, noise)
        outcomes: list[Outcome | None] = []
        for seed, visited in zip(seeds, seen.vector, strict=True):
            at = np.unique(np.linspace(0, len(visited) - 1, c.states).astype(np.intp))
            orders = np.random.default_rng([noise, int(seed)])
            outcomes.append(self._outcome(subject, int(seed), visited[at], baseline, orders))
        return outcomes

    def _outcome(
        self, policy: Differentiable, seed: int, rows: Rows, baseline: Rows, rng: np.random.Generator
    ) -> Outcome:
        c = self.config
        weight = np.abs(integrated_gradients(policy, rows, baseline, c.steps)).sum(axis=1)  # [B, D]
        ranked = np.argsort(-weight, axis=1, kind="stable")
        other = np.broadcast_to(baseline, rows.shape)

        def curves(order: NDArray[np.intp]) -> tuple[Array, Array]:
            """Deletion and insertion, [P] each: distance from the action on the whole observation."""
            deletion = replacement_curve(policy, rows, other, order, self._share).mean(axis=0)
            # What is inserted first is replaced last.
            insertion = replacement_curve(policy, rows, other, order[:, ::-1], self._share[::-1]).mean(axis=0)
            return deletion, insertion

        shuffled = [curves(rng.permuted(ranked, axis=1)) for _ in range(c.orders)]
        deletion, insertion = curves(ranked)
        deletion_random = np.mean([pair[0] for pair in shuffled], axis=0)
        insertion_random = np.mean([pair[1] for pair in shuffled], axis=0)
        values = {
            "deletion advantage": float(np.trapezoid(deletion - deletion_random, self._share)),
            "insertion advantage": float(np.trapezoid(insertion_random - insertion, self._share)),
        }
        drawn = {
            "deletion by attribution": deletion,
            "deletion at random": deletion_random,
            "insertion by attribution": insertion,
            "insertion at random": insertion_random,
        }
        return Outcome(values, {name: curve.tolist() for name, curve in drawn.items()}, {"seed": seed})
