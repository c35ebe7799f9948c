"""Recorded transitions to learn from: what a data set holds, its Parquet form, and files that users bring.

One row is one step (s, a, r, c, s'), rows of an episode in order. Observations are the world's as one flat vector,
choices as one-hots; actions are stored as policies store them, a single choice in one column. Nothing is unpickled.

Actions are "scaled", in [-1, 1] and choices from 0, as Trueline's worlds take and record them, or "native", in the
units of the world's own action space. A file that does not say so leaves it to a setting, and is refused without one
where the two differ: native actions that happen to lie within ±1 would be learnt at the wrong size.

Parquet files carry the names of the costs, the units of the actions, the world and how the data were made. `.npz` and
HDF5 files are read by the field names of OmniSafe (obs, action, reward, cost, next_obs, done) and of D4RL and DSRL
(observations, …, terminals, timeouts).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError, MissingExtra, RunError
from trueline.core.files import disk_errors
from trueline.rl.env import VectorEnv
from trueline.rl.evaluate import Act
from trueline.rl.spaces import ActionCodec, ObservationCodec

FORMAT = 2
FILE = "data.parquet"
DoneMeans = Literal["terminated", "truncated"]
Units = Literal["scaled", "native"]

# column -> names under which files have it
FIELDS: Mapping[str, tuple[str, ...]] = {
    "obs": ("obs", "observations"),
    "action": ("action", "actions"),
    "reward": ("reward", "rewards"),
    "cost": ("cost", "costs"),
    "next_obs": ("next_obs", "next_observations"),
    "terminated": ("terminated", "terminals"),
    "truncated": ("truncated", "timeouts"),
    "done": ("done", "dones"),
}


class Finished(NamedTuple):
    """The E episodes of a data set that came to an end; one that the recording cut short has no cost to speak of."""

    first: NDArray[np.int64]  # [E] row
    last: NDArray[np.int64]  # [E] row, inclusive
    episode_return: NDArray[np.float64]  # [E] undiscounted
    cost: NDArray[np.float64]  # [E, K] undiscounted


@dataclass(frozen=True, slots=True, eq=False)
class OfflineData:
    """n transitions. A subject too: a run that records data leaves them as any other run leaves its policy.

    Raises ConfigError, with row and column, for shapes that do not fit together and numbers that are not finite.
    """

    kind: ClassVar[str] = "offline-data"

    obs: NDArray[np.float32]  # [n, D]
    action: NDArray[np.float32]  # [n, A]
    reward: NDArray[np.float64]  # [n]
    cost: NDArray[np.float64]  # [n, K]
    next_obs: NDArray[np.float32]  # [n, D]
    terminated: NDArray[np.bool_]  # [n] the task itself ended
    truncated: NDArray[np.bool_]  # [n] cut off by time: the value of next_obs counts
    costs: tuple[str, ...] = ("cost_sum",)  # [K] names
    world: str = ""  # id, "" when not known
    options: Mapping[str, Any] = field(default_factory=dict)  # of the world
    made: Mapping[str, Any] = field(default_factory=dict)  # how: sources, shares, seed
    parent: str | None = None
    actions: Units | None = "scaled"  # units of `action`, None when not known

    def __post_init__(self) -> None:
        """Refuse what cannot be learnt from."""
        n = len(self.reward)
        if n == 0:
            raise ConfigError("the data set has no rows. Give one with at least one transition.")
        if self.actions not in (*get_args(Units), None):
            raise ConfigError(f"actions is {self.actions!r}. Give {' or '.join(map(repr, get_args(Units)))}.")
        shapes = {
            "obs": (n, self.obs.shape[-1]),
            "action": (n, self.action.shape[-1]),
            "reward": (n,),
            "cost": (n, len(self.costs)),
            "next_obs": (n, self.obs.shape[-1]),
            "terminated": (n,),
            "truncated": (n,),
        }
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values.shape != shape:
                raise ConfigError(
                    f"column {name} has shape {values.shape}, but {shape} belongs to {n} rewards, observations of "
                    f"{self.obs.shape[-1]} numbers and the costs {', '.join(self.costs) or '(none)'}. "
                    "Give every column one row per step."
                )
            bad = np.argwhere(~np.isfinite(values))
            if len(bad):
                row, *column = bad[0].tolist()
                where = f"{name}[{column[0]}]" if column else name
                given = values[tuple(bad[0])]
                raise ConfigError(f"row {row}, column {where} is {given}. Give a finite number, or remove its episode.")

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def ended(self) -> NDArray[np.bool_]:
        """[n] whether an episode ended with this step, for either reason."""
        return self.terminated | self.truncated

    @property
    def starts(self) -> NDArray[np.int64]:
        """Rows that begin an episode."""
        return np.flatnonzero(np.concatenate([[True], self.ended[:-1]]))

    def finished(self) -> Finished:
        """Bounds, returns and costs of the finished episodes."""
        last = np.flatnonzero(self.ended)
        first = self.starts[: len(last)]
        total = np.concatenate([np.zeros((1, 1 + self.cost.shape[1])), np.cumsum(self._signal(), axis=0)])
        sums = total[last + 1] - total[first]
        return Finished(first, last, sums[:, 0], sums[:, 1:])

    def _signal(self) -> NDArray[np.float64]:
        return np.column_stack([self.reward, self.cost])

    def within(self, limit: NDArray[np.float64]) -> NDArray[np.int64]:
        """Rows of finished episodes in which every cost stayed at or under its limit [K]."""
        episodes = self.finished()
        kept = (episodes.cost <= limit + 1e-9).all(axis=1)
        spans = zip(episodes.first[kept], episodes.last[kept], strict=True)
        rows = [np.arange(first, last + 1) for first, last in spans]
        return np.concatenate(rows) if rows else np.zeros(0, np.int64)

    def digest(self) -> str:
        """SHA-256 (hex) of the numbers."""
        found = hashlib.sha256()
        for name in ("obs", "action", "reward", "cost", "next_obs", "terminated", "truncated"):
            found.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return found.hexdigest()

    def save(self, folder: Path) -> None:
        """`data.parquet` in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_parquet(self, folder / FILE)


def joined(parts: list[OfflineData]) -> OfflineData:
    """Data sets of one world, one after the other; each one's last episode is taken to end with it.

    Raises ConfigError for different costs or units of actions.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.actions != first.actions:
            raise ConfigError(
                f"data with actions of units {part.actions} do not join data with {first.actions}. Rescale one of them."
            )
        if part.costs != first.costs:
            raise ConfigError(
                f"data of costs {', '.join(part.costs)} do not join data of {', '.join(first.costs)}. Record one world."
            )
    for part in parts[:-1]:
        if not part.ended[-1]:
            raise ConfigError("a data set that is joined to another ends within an episode. Leave that episode out.")
    names = ("obs", "action", "reward", "cost", "next_obs", "terminated", "truncated")
    columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return replace(first, **columns)


# --- recording ---


def record(env: VectorEnv, act: Act, episodes: int) -> OfflineData:
    """`episodes` whole episodes, N at a time, on seeds that the world draws.

    act: called with (step, observations) before every step, as for `run_episodes`. Raises ConfigError for pictures.
    """
    codec, action = ObservationCodec.of(env.observation_space), ActionCodec.of(env.action_space)
    if codec.images:
        raise ConfigError("data sets hold no pictures. Record a world whose observations are numbers.")
    parts: list[OfflineData] = []
    left = episodes
    while left > 0:
        wanted = min(left, env.num_envs)
        parts += _one_wave(env, act, codec, action, wanted)
        left -= wanted
    return joined(parts)


def _one_wave(env: VectorEnv, act: Act, codec: ObservationCodec, action: ActionCodec, wanted: int) -> list[OfflineData]:
    """One episode of each of the first `wanted` environments."""
    columns: list[tuple[NDArray[Any], ...]] = []
    running = np.arange(env.num_envs) < wanted
    length = np.zeros(env.num_envs, dtype=np.int64)
    obs = env.reset()
    for t in range(env.max_episode_steps):
        taken = np.asarray(act(t, obs))
        if isinstance(env.action_space, gym.spaces.Box):
            # A normal policy draws beyond what worlds act on.
            taken = taken.clip(env.action_space.low, env.action_space.high)
        step = env.step(taken)
        before = codec.encode(obs)["vector"].copy()
        after = codec.encode(step.final_obs)["vector"].copy()
        stored = taken.reshape(env.num_envs, action.width).astype(np.float32)
        columns.append((before, stored, step.reward, step.cost, after, step.terminated, step.truncated))
        length += running
        running &= ~step.ended
        obs = step.obs
        if not running.any():
            break
    names = ("obs", "action", "reward", "cost", "next_obs", "terminated", "truncated")
    stacked: dict[str, Any] = {
        name: np.stack(column) for name, column in zip(names, zip(*columns, strict=True), strict=True)
    }
    return [_cut(stacked, i, int(length[i]), env) for i in range(wanted)]


def _cut(columns: Mapping[str, Any], i: int, length: int, env: VectorEnv) -> OfflineData:
    """The first steps of environment i."""
    own: dict[str, Any] = {name: column[:length, i] for name, column in columns.items()}
    return OfflineData(**own, costs=env.costs, world=env.id)


# --- scores ---


class Scores(NamedTuple):
    """What offline studies compare (Liu et al. 2023, DSRL): returns on the data's scale, costs on the limit's."""

    episode_return: float  # 0 for the data's worst episode, 1 for its best; nan where all are alike, or none ended
    cost: NDArray[np.float64]  # [K] J_c/d, above 1 where the limit is exceeded; nan for a limit of 0


def normalised_scores(
    recorded: NDArray[np.float64], episode_return: float, cost: NDArray[np.float64], limit: NDArray[np.float64]
) -> Scores:
    """(J_r − min)/(max − min) over the returns [E] of the data's finished episodes, and J_c/d.  cost, limit [K]."""
    span = float(np.ptp(recorded)) if len(recorded) else 0.0
    scaled = (episode_return - float(recorded.min())) / span if span > 0.0 else float("nan")
    safe = np.where(limit > 0.0, limit, np.nan)
    return Scores(scaled, cost / safe)


# --- files ---


def write_parquet(data: OfflineData, path: Path) -> None:
    """The data set as one Parquet file, written in one move.  Raises MissingExtra without pyarrow, DiskError."""
    pa, parquet = _pyarrow("writing Parquet")

    def listed(values: NDArray[Any]) -> Any:
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])

    table = pa.table(
        {
            "obs": listed(data.obs),
            "action": listed(data.action),
            "reward": pa.array(data.reward),
            **({"cost": listed(data.cost)} if data.costs else {}),
            "next_obs": listed(data.next_obs),
            "terminated": pa.array(data.terminated),
            "truncated": pa.array(data.truncated),
        }
    )
    about = {
        "format": FORMAT,
        "costs": list(data.costs),
        "actions": data.actions,
        "world": data.world,
        "options": dict(data.options),
        "made": dict(data.made),
    }
    table = table.replace_schema_metadata({"trueline": json.dumps(about, sort_keys=True)})
    part = path.with_name(f".{path.name}.part")
    with disk_errors(path):
        parquet.write_table(table, part)
        os.replace(part, path)


def read(path: Path, done: DoneMeans = "terminated") -> OfflineData:
    """The data set in a `.parquet`, `.npz`, `.h5` or `.hdf5` file, or in the folder of a saved one.

    done: what the field `done` says where a file has no `terminated`: the task's end, or that time was up. Raises
    ConfigError, in one sentence, for a file that is missing or damaged, a field that is missing, a wrong shape or a
    number that is not finite, and MissingExtra for a format whose reader is not installed.
    """
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"there is no data set {path}. Give a .parquet, .npz, .h5 or .hdf5 file.")
    kinds = {".parquet": _from_parquet, ".npz": _from_npz, ".h5": _from_hdf5, ".hdf5": _from_hdf5}
    if path.suffix not in kinds:
        raise ConfigError(f"{path} ends in {path.suffix!r}. Data sets are .parquet, .npz, .h5 or .hdf5 files.")
    raw, about = kinds[path.suffix](path)
    try:
        return _assembled(raw, about, done)
    except ConfigError as wrong:
        raise ConfigError(f"data set {path}: {wrong}") from None


def load(folder: Path) -> OfflineData:
    """The data set saved in `folder`.  Raises RunError naming what is missing or damaged."""
    try:
        return read(folder)
    except ConfigError as wrong:
        raise RunError(str(wrong)) from None


def unnamed(costs: int) -> tuple[str, ...]:
    """What the costs of a file without names are called."""
    return ("cost_sum",) if costs == 1 else tuple(f"cost_{k + 1}" for k in range(costs))


Raw = dict[str, NDArray[Any]]


def _assembled(raw: Raw, about: Mapping[str, Any], done: DoneMeans) -> OfflineData:
    """Fields by whatever name they go under, in our types and shapes."""
    found: Raw = {}
    for field_name, names in FIELDS.items():
        for name in names:
            if name in raw:
                found[field_name] = np.asarray(raw[name])
                break
    missing = [name for name in ("obs", "action", "reward", "next_obs") if name not in found]
    if "cost" not in found and about.get("costs") != []:
        missing.append("cost")
    ends = "terminated" in found
    if not ends and "done" not in found:
        missing.append("terminated")
    if missing:
        others = ", ".join(sorted(raw)) or "none"
        raise ConfigError(f"column {missing[0]} is missing; there are: {others}. Add it, one row per step.")
    for name, values in found.items():
        if not (np.issubdtype(values.dtype, np.number) or values.dtype == np.bool_):
            raise ConfigError(f"column {name} holds {values.dtype}, but should hold numbers. Convert it.")
        if values.ndim < 1 or values.ndim > 2:
            raise ConfigError(f"column {name} has shape {values.shape}. Give [rows] or [rows, width].")
    n = len(found["reward"])
    found.setdefault("cost", np.zeros((n, 0)))
    if ends:
        found.pop("done", None)
    for name in ("terminated", "truncated", "done"):
        values = _row(found.get(name, np.zeros(n)))
        if values.shape != (n,):
            raise ConfigError(f"column {name} has shape {values.shape}, but there are {n} rows. Give [{n}].")
        bad = np.flatnonzero(~np.isin(values, (0, 1)))
        if len(bad):
            raise ConfigError(f"row {bad[0]}, column {name} is {values[bad[0]]}. Give 0 or 1.")
        found[name] = values.astype(np.bool_)
    # Where time-outs stand beside it, `done` is either end, as gym had it: a time-out is no end of the task.
    found["terminated"] |= found["done"] & ~found["truncated"] & (not ends and done == "terminated")
    found["truncated"] |= found["done"] & (not ends and done == "truncated")
    cost = found["cost"] if found["cost"].ndim == 2 else found["cost"][:, None]
    action = found["action"] if found["action"].ndim == 2 else found["action"][:, None]
    obs, after = (x if x.ndim == 2 else x[:, None] for x in (found["obs"], found["next_obs"]))
    return OfflineData(
        obs=obs.astype(np.float32),
        action=action.astype(np.float32),
        reward=_row(found["reward"]).astype(np.float64),
        cost=cost.astype(np.float64),
        next_obs=after.astype(np.float32),
        terminated=found["terminated"],
        truncated=found["truncated"],
        costs=tuple(about.get("costs", unnamed(cost.shape[1]))),
        world=str(about.get("world", "")),
        options=about.get("options", {}),
        made=about.get("made", {}),
        actions=about.get("actions"),
    )


def _row(values: NDArray[Any]) -> NDArray[Any]:
    """[n, 1] as [n], which is how some files have their numbers."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _from_npz(path: Path) -> tuple[Raw, Mapping[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}, {}
    except Exception as damage:  # noqa: BLE001  (a damaged archive raises whatever its decompressor does)
        raise ConfigError(f"{path} cannot be read as .npz without pickle: {damage}. Save plain arrays.") from None


def _from_parquet(path: Path) -> tuple[Raw, Mapping[str, Any]]:
    pa, parquet = _pyarrow("reading Parquet")
    try:
        table = parquet.read_table(path)
        about = json.loads((table.schema.metadata or {}).get(b"trueline", b"{}"))
    except (pa.ArrowException, ValueError, OSError) as damage:
        raise ConfigError(f"{path} cannot be read as Parquet: {damage}. Write it again.") from None
    if about.get("format", FORMAT) != FORMAT:
        raise ConfigError(f"{path} has data format {about['format']}, but this Trueline reads {FORMAT}. Record again.")
    return {name: _matrix(name, table.column(name).combine_chunks(), path) for name in table.column_names}, about


def _matrix(name: str, column: Any, path: Path) -> NDArray[Any]:
    """A column of numbers, or of lists of one length, as an array; a null is a number that is not finite."""
    pa, _ = _pyarrow("reading Parquet")
    if not (pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise ConfigError(f"data set {path}: row {row}, column {name} is empty. Remove its episode.")
    if pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(len(column), column.type.list_size)
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    uneven = np.flatnonzero(lengths != lengths[0])
    if len(uneven):
        row = int(uneven[0])
        raise ConfigError(
            f"data set {path}: row {row}, column {name} has {lengths[row]} numbers, but row 0 has {lengths[0]}. "
            "Give every row as many."
        )
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(len(column), int(lengths[0]))


def _from_hdf5(path: Path) -> tuple[Raw, Mapping[str, Any]]:
    try:
        import h5py
    except ImportError:
        raise MissingExtra("offline", "reading HDF5 data sets") from None
    try:
        with h5py.File(path, "r") as file:
            return {name: file[name][()] for name in file if isinstance(file[name], h5py.Dataset)}, {}
    except OSError as damage:
        raise ConfigError(f"{path} cannot be read as HDF5: {damage}. Write it again.") from None


def _pyarrow(feature: str) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("offline", feature) from None
    return pyarrow, pyarrow.parquet
