"""The public checker of vector worlds: run it on your own before training in it.

It plays random episodes and replays them in fresh copies, in other rows, beside other episodes. A world that passes
keeps every promise of `VectorEnv` that can be seen from outside; how long it is watched is `steps`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import BadWorld, ConfigError, TruelineError
from trueline.rl.env import Obs, SeedSource, Stateful, Step, VectorEnv
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.rl.worlds import make

Factory = Callable[..., VectorEnv]

ROWS = 3  # environments: enough for rows to be confused with one another


class BrokenContract(BadWorld):
    """A world that does not keep the contract; `violations` holds one sentence for each way in which it does not."""

    def __init__(self, world: str, violations: tuple[str, ...]) -> None:
        self.world, self.violations = world, violations
        listed = "\n".join(f"- {violation}" for violation in violations)
        TruelineError.__init__(
            self, f"{world} does not keep the contract of a vector world. Correct what is listed.\n{listed}"
        )


def check_env(world: str | Factory, steps: int = 200, seed: int = 0) -> None:
    """Raise BrokenContract, a BadWorld, listing every promise of `VectorEnv` that a world does not keep.

    world: a name, or a function from a number of environments to a world; where it takes `threads`, the results must
    not depend on it. It is called several times. steps: how long the world is watched, and longer where no episode has
    ended by then, up to its `max_episode_steps`. What it raises itself is passed on as it is.
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps}. Watch the world for at least one step.")
    factory: Factory = partial(make, world) if isinstance(world, str) else world
    first = factory(ROWS)
    name = str(getattr(first, "id", type(first).__name__))
    violations = list(dict.fromkeys(_form(first, seed)))
    first.close()
    if violations:
        # Episodes cannot be compared while their arrays have other shapes than promised.
        raise BrokenContract(name, tuple(violations))
    episodes, found = _watch(factory, steps, seed)
    found += [
        *_replayed(factory, episodes, seed),
        *_clipped(factory, seed),
        *_resumed(factory, steps, seed),
        *_any_threads(factory, min(steps, 50), seed),
    ]
    if found:
        raise BrokenContract(name, tuple(dict.fromkeys(found)))


# --- form: attributes, shapes, dtypes ---------------------------------------------------------------------------------


def _form(env: VectorEnv, seed: int) -> Iterator[str]:
    missing = [name for name in (*VectorEnv.__annotations__, "reset", "step", "close") if not hasattr(env, name)]
    if missing:
        yield f"It has no {', '.join(missing)}."
        return
    if env.num_envs != ROWS:
        yield f"num_envs is {env.num_envs}, but the factory was called with {ROWS}."
        return
    if not isinstance(env.costs, tuple) or not all(isinstance(c, str) for c in env.costs):
        yield f"costs is {env.costs!r}, but should be a tuple of names, () where there are none."
        return
    if len(set(env.costs)) < len(env.costs):
        yield f"costs names one cost twice: {', '.join(env.costs)}."
    if env.max_episode_steps < 1:
        yield f"max_episode_steps is {env.max_episode_steps}, but should be at least 1."
    try:
        ObservationCodec.of(env.observation_space)
        ActionCodec.of(env.action_space)
    except ConfigError as refused:
        yield f"Its spaces cannot be used: {refused}"
        return
    rng = np.random.default_rng(seed)
    seeds = _seeds(rng, ROWS)
    yield from _observations("reset returned", env.reset(seeds.copy()), env.observation_space)
    if np.shape(env.episode_seed) != (ROWS,) or np.asarray(env.episode_seed).dtype != np.uint32:
        yield f"episode_seed is {_form_of(env.episode_seed)}, but should be uint32 [{ROWS}]."
    elif (env.episode_seed != seeds).any():
        yield "episode_seed does not hold the seeds that reset was given."
    actions = _random_actions(env, rng)
    given = actions.copy()
    step = env.step(actions)
    if (actions != given).any():
        yield "step changes the actions it is given."
    yield from _step_form(step, env)


def _step_form(step: Step, env: VectorEnv) -> Iterator[str]:
    yield from _observations("step returned", step.obs, env.observation_space)
    yield from _observations("final_obs held", step.final_obs, env.observation_space)
    n, k = env.num_envs, len(env.costs)
    for name, kind, shape in (
        ("reward", np.floating, (n,)),
        ("cost", np.floating, (n, k)),
        ("terminated", np.bool_, (n,)),
        ("truncated", np.bool_, (n,)),
    ):
        value = getattr(step, name)
        if not isinstance(value, np.ndarray) or value.shape != shape or not np.issubdtype(value.dtype, kind):
            wanted = "bool" if kind is np.bool_ else "floats"
            yield f"{name} is {_form_of(value)}, but should be {wanted} {list(shape)}."
        elif kind is np.floating and not np.isfinite(value).all():
            yield f"{name} is not finite."
    for name, value in step.info.items():
        if np.shape(value)[:1] != (n,):
            yield f"info[{name!r}] is {_form_of(value)}, but its first dimension should be {n}."


def _observations(what: str, obs: Any, space: gym.Space[Any]) -> Iterator[str]:
    if isinstance(space, gym.spaces.Dict):
        if not isinstance(obs, dict) or set(obs) != set(space.spaces):
            yield f"{what} observations that do not have the keys {', '.join(space.spaces)}."
            return
        for key, part in space.spaces.items():
            yield from _array(f"{what} observations {key!r}", obs[key], part)
    else:
        yield from _array(f"{what} observations", obs, space)


def _array(what: str, value: Any, space: gym.Space[Any]) -> Iterator[str]:
    shape = (ROWS, *(space.shape or ()))
    if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype != space.dtype:
        yield f"{what} that are {_form_of(value)}, but should be {space.dtype} {list(shape)}."
    elif np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
        yield f"{what} that are not finite."
    elif not all(space.contains(row[()] if row.ndim == 0 else row) for row in value):
        yield f"{what} outside the observation space."


def _form_of(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


# --- episodes: autoreset, seeds, reproducibility ----------------------------------------------------------------------


@dataclass(slots=True)
class _Moment:
    action: NDArray[Any]
    reward: float
    cost: NDArray[np.float64]
    terminated: bool
    truncated: bool
    final_obs: Any


@dataclass(slots=True)
class _Episode:
    """What one row showed from a reset on."""

    row: int
    seed: int
    first_obs: Any
    after_autoreset: bool
    moments: list[_Moment] = field(default_factory=list)
    following_obs: Any = None  # obs in the row once the episode has ended

    @property
    def ended(self) -> bool:
        return self.following_obs is not None


class _Handed:
    """A seed source that remembers what it handed out."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.open: list[int] = []

    def __call__(self, n: int) -> NDArray[np.uint32]:
        seeds = _seeds(self.rng, n)
        self.open += seeds.tolist()
        return seeds

    def take(self, seed: int) -> bool:
        """Whether the seed was handed out and not used before."""
        if seed not in self.open:
            return False
        self.open.remove(seed)
        return True


def _watch(factory: Factory, steps: int, seed: int) -> tuple[list[_Episode], list[str]]:
    """Random episodes for `steps` steps, and until every row has ended one; and what they violate at once."""
    env, found = factory(ROWS), list[str]()
    source = _Handed(seed)
    env.seed_source = source
    rng = np.random.default_rng([seed, 1])
    obs = env.reset()
    if not all(source.take(s) for s in env.episode_seed.tolist()):
        found.append("reset() without seeds does not start the episodes that seed_source gives.")
    running = [_Episode(i, int(env.episode_seed[i]), _row(obs, i), False) for i in range(ROWS)]
    past: list[_Episode] = []
    overdue, t = False, 0
    while not overdue and (t < steps or not all(episode.after_autoreset for episode in running)):
        t += 1
        actions = _random_actions(env, rng)
        step = env.step(actions)
        found += _step_form(step, env)
        for i, episode in enumerate(running):
            episode.moments.append(
                _Moment(
                    actions[i].copy(),
                    float(step.reward[i]),
                    step.cost[i].copy(),
                    bool(step.terminated[i]),
                    bool(step.truncated[i]),
                    _row(step.final_obs, i),
                )
            )
            if step.ended[i]:
                episode.following_obs = _row(step.obs, i)
                past.append(episode)
                new = int(env.episode_seed[i])
                if not source.take(new):
                    found.append("After an autoreset episode_seed is not a new seed from seed_source.")
                running[i] = _Episode(i, new, episode.following_obs, True)
            else:
                if not _equal(_row(step.obs, i), _row(step.final_obs, i)):
                    found.append("final_obs differs from obs in a row whose episode goes on.")
                if int(env.episode_seed[i]) != episode.seed:
                    found.append("episode_seed changes within an episode.")
            overdue |= len(episode.moments) >= env.max_episode_steps and not step.ended[i]
    if overdue:
        found.append(f"An episode did not end at max_episode_steps, {env.max_episode_steps}.")
    env.close()
    return past + running, found + list(_final_observations(past))


def _final_observations(past: list[_Episode]) -> Iterator[str]:
    """Whether final_obs is always what the next episode starts with, in a world whose observations do change."""
    changing = any(not _equal(m.final_obs, e.first_obs) for e in past for m in e.moments[:-1])
    if changing and all(_equal(e.moments[-1].final_obs, e.following_obs) for e in past):
        yield "final_obs holds the first observation of the new episode, not the last of the one that ended."


def _replayed(factory: Factory, episodes: list[_Episode], seed: int) -> Iterator[str]:
    """Play the same seeds and actions again in a fresh world, one row further on and beside other episodes."""
    env = factory(ROWS)
    rng = np.random.default_rng([seed, 2])
    env.seed_source = _Handed(seed + 1)  # other next episodes: nothing of this one may depend on them
    chosen = [e for e in episodes if not e.after_autoreset][:ROWS]
    chosen += [e for e in episodes if e.after_autoreset and e.moments][: 2 * ROWS]
    for episode in chosen:
        row = (episode.row + 1) % ROWS
        seeds = _seeds(rng, ROWS)
        seeds[row] = episode.seed
        complaint = _first_difference(env, env.reset(seeds), episode, row, rng)
        if complaint:
            yield complaint
    env.close()


def _first_difference(env: VectorEnv, obs: Obs, episode: _Episode, row: int, rng: np.random.Generator) -> str | None:
    if not _equal(_row(obs, row), episode.first_obs):
        if episode.after_autoreset:
            return "After an autoreset obs is not the first observation of the episode of episode_seed."
        return "The same seed does not start the same episode: its first observation differs."
    for moment in episode.moments:
        actions = _random_actions(env, rng)
        actions[row] = moment.action
        step = env.step(actions)
        same = (
            step.reward[row] == moment.reward
            and (step.cost[row] == moment.cost).all()
            and step.terminated[row] == moment.terminated
            and step.truncated[row] == moment.truncated
        )
        if not same or (not step.ended[row] and not _equal(_row(step.final_obs, row), moment.final_obs)):
            return (
                "The same seed and actions do not give the same episode: state leaks in from an earlier episode, "
                "another row or a random stream that the seed does not start."
            )
        if step.ended[row]:
            if not _equal(_row(step.final_obs, row), moment.final_obs):
                return "final_obs depends on which episode comes next: it is not the last observation of the old one."
            return None
    return None


def _clipped(factory: Factory, seed: int) -> Iterator[str]:
    """Actions outside [-1, 1] must act as the nearest inside, except in dimensions that are declared unbounded."""
    one, other = factory(ROWS), factory(ROWS)
    space = one.action_space
    if isinstance(space, gym.spaces.Box):
        bounded = np.isfinite(space.low) & np.isfinite(space.high)
        if not (space.low[bounded] == -1.0).all() or not (space.high[bounded] == 1.0).all():
            yield "action_space has bounds other than -1 and 1: rescale inside the world."
        rng = np.random.default_rng([seed, 3])
        seeds = _seeds(rng, ROWS)
        for env in (one, other):
            env.seed_source = _Handed(seed)
            env.reset(seeds.copy())
        for _ in range(10):
            wild = rng.uniform(-3.0, 3.0, (ROWS, *space.shape)).astype(space.dtype)
            tame = np.where(bounded, wild.clip(-1.0, 1.0), wild).astype(space.dtype)
            if not _same_step(one.step(wild), other.step(tame)):
                yield "Actions outside [-1, 1] are not clipped to it."
                break
    one.close()
    other.close()


def _resumed(factory: Factory, steps: int, seed: int) -> Iterator[str]:
    """A state taken up by a fresh world must continue bit for bit."""
    env, twin = factory(ROWS), factory(ROWS)
    if isinstance(env, Stateful) and isinstance(twin, Stateful):
        rng = np.random.default_rng([seed, 4])
        env.seed_source, twin.seed_source = _Handed(seed), _Handed(seed)
        obs = env.reset(_seeds(rng, ROWS))
        for _ in range(max(1, steps // 4)):
            obs = env.step(_random_actions(env, rng)).obs
        state = env.state_dict()
        yield from (f"state_dict holds {what}, but should hold arrays and JSON values." for what in _foreign(state))
        before = _copied(obs)
        source: SeedSource = _Handed(seed + 1)
        env.seed_source = source
        plan = [_random_actions(env, rng) for _ in range(max(1, steps // 2))]
        # The original runs on before its state is used: a state that is a view of the live world would move with it.
        expected = [_copied_step(env.step(actions)) for actions in plan]
        seeds = env.episode_seed.copy()
        if not _equal(twin.load_state_dict(state), before):
            yield "load_state_dict does not return the observations that belong to the state."
        twin.seed_source = _Handed(seed + 1)
        if not all(_same_step(twin.step(actions), step) for actions, step in zip(plan, expected, strict=True)):
            yield "A world that took up a state does not continue as the original did."
        elif (twin.episode_seed != seeds).any():
            yield "A world that took up a state records other episode seeds than the original."
    env.close()
    twin.close()


def _any_threads(factory: Factory, steps: int, seed: int) -> Iterator[str]:
    if "threads" not in inspect.signature(factory).parameters:
        return
    one, two = factory(ROWS, threads=1), factory(ROWS, threads=2)
    rng = np.random.default_rng([seed, 5])
    seeds = _seeds(rng, ROWS)
    for env in (one, two):
        env.seed_source = _Handed(seed)
    same = _equal(one.reset(seeds.copy()), two.reset(seeds.copy()))
    for _ in range(steps):
        actions = _random_actions(one, rng)
        same = same and _same_step(one.step(actions.copy()), two.step(actions))
    if not same:
        yield "Two threads give other results than one."
    one.close()
    two.close()


# --- small pieces -----------------------------------------------------------------------------------------------------


def _seeds(rng: np.random.Generator, n: int) -> NDArray[np.uint32]:
    return rng.integers(0, 2**32, size=n, dtype=np.uint32)


def _random_actions(env: VectorEnv, rng: np.random.Generator) -> NDArray[Any]:
    codec, n = ActionCodec.of(env.action_space), env.num_envs
    if codec.kind == "continuous":
        return rng.uniform(-1.0, 1.0, (n, codec.width)).astype(env.action_space.dtype)
    return codec.to_world(np.stack([rng.integers(0, size, n) for size in codec.sizes], axis=1))


def _row(obs: Obs, i: int) -> Any:
    return {key: np.array(value[i]) for key, value in obs.items()} if isinstance(obs, dict) else np.array(obs[i])


def _copied(obs: Obs) -> Obs:
    return {key: value.copy() for key, value in obs.items()} if isinstance(obs, dict) else obs.copy()


def _copied_step(step: Step) -> Step:
    return Step(
        _copied(step.obs),
        step.reward.copy(),
        step.cost.copy(),
        step.terminated.copy(),
        step.truncated.copy(),
        _copied(step.final_obs),
    )


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
    return not isinstance(a, dict) and not isinstance(b, dict) and np.array_equal(a, b)


def _same_step(a: Step, b: Step) -> bool:
    return (
        _equal(a.obs, b.obs)
        and _equal(a.final_obs, b.final_obs)
        and all(np.array_equal(getattr(a, x), getattr(b, x)) for x in ("reward", "cost", "terminated", "truncated"))
    )


def _foreign(state: Any, path: str = "") -> Iterator[str]:
    """Values of a state that are neither arrays nor JSON."""
    if isinstance(state, Mapping):
        for key, value in state.items():
            if not isinstance(key, str):
                yield f"a key that is a {type(key).__name__} in {path or 'the state'}"
            yield from _foreign(value, f"{path}/{key}")
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _foreign(value, path)
    elif isinstance(state, np.ndarray):
        if state.dtype.hasobject:
            yield f"an array of objects at {path}"
    elif not (state is None or isinstance(state, str | int | float | bool) or hasattr(state, "untyped_storage")):
        yield f"a {type(state).__name__} at {path}"
