import errno
import json
import math
import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trueline.core import checkpoint, files
from trueline.core.errors import CheckpointError, DiskError


def same(one, other):
    """Equal in type, dtype, shape and value, nan equal to nan."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        bits = torch.int16 if one.dtype is torch.bfloat16 else one.dtype
        return one.dtype is other.dtype and same(one.view(bits).numpy(), other.view(bits).numpy())
    if isinstance(one, np.ndarray | np.generic):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, float):
        return (one != one and other != other) or (one == other and math.copysign(1, one) == math.copysign(1, other))
    return one == other


dtypes = st.sampled_from(sorted(checkpoint._DTYPES))
arrays = hnp.arrays(dtype=dtypes, shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
tensors = arrays.map(lambda a: torch.from_numpy(np.array(a)))
scalars = st.none() | st.booleans() | st.integers(-(2**130), 2**130) | st.floats() | st.text(max_size=5)
keys = st.text(max_size=4) | st.integers(-3, 3) | st.sampled_from(["$tensor", "$tuple", "$$float", "$items"])
states = st.dictionaries(
    keys,
    st.recursive(
        scalars | arrays | tensors,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(keys, inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(states)
def test_any_state_comes_back_equal(tmp_path, state):
    shutil.rmtree(tmp_path / "c", ignore_errors=True)
    assert same(checkpoint.read(checkpoint.write(tmp_path / "c", 1, state)), state)


def test_layouts_and_kinds_that_numpy_lacks_come_back_equal(tmp_path):
    state = {
        "bf16": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).t(),
        "bf16_0d": torch.tensor(1.5, dtype=torch.bfloat16),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "strided": np.arange(10)[::3],
        "scalar": np.float32(0.1),
        "generator": torch.get_rng_state(),
        "pcg": np.random.default_rng(0).bit_generator.state,
    }
    assert same(checkpoint.read(checkpoint.write(tmp_path, 1, state)), state)


def test_an_optimiser_takes_the_same_step_after_a_round_trip(tmp_path):
    def trained(steps, state=None):
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 2)
        adam = torch.optim.Adam(net.parameters(), lr=0.1)
        if state:
            net.load_state_dict(state["net"])
            adam.load_state_dict(state["adam"])
        for _ in range(steps):
            adam.zero_grad()
            net(torch.ones(1, 3)).square().sum().backward()
            adam.step()
        return net, adam

    net, adam = trained(3)
    path = checkpoint.write(tmp_path, 3, {"net": net.state_dict(), "adam": adam.state_dict()})
    resumed, _ = trained(2, checkpoint.read(path))
    straight, _ = trained(5)
    assert torch.equal(resumed.weight, straight.weight)


def test_arrays_that_come_back_can_be_written_to(tmp_path):
    back = checkpoint.read(checkpoint.write(tmp_path, 1, {"a": np.zeros(2), "t": torch.zeros(2)}))
    back["a"][0] = back["t"][0] = 1
    assert back["a"][0] == back["t"][0] == 1


def test_equal_states_have_equal_bytes(tmp_path):
    state = {"a": np.arange(3), "b": [torch.ones(2), 0.1]}
    one, other = (checkpoint.write(tmp_path / name, 1, state) for name in "ab")
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in other.iterdir()}


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (object(), "object"),
        (np.array(["a"]), "ndarray of <U1"),
        (np.array([object()]), "ndarray of object"),
        (1j, "complex"),
        (torch.zeros(2, dtype=torch.complex64), "complex64"),
        (torch.eye(2).to_sparse(), "Tensor"),
        ({1.5: 0}, "float"),
        ({(1,): 0}, "tuple"),
        ({True: 0}, "bool"),
    ],
)
def test_what_cannot_be_stored_is_named_by_its_path(tmp_path, value, what):
    with pytest.raises(CheckpointError, match=rf"/a/1.*{what}"):
        checkpoint.write(tmp_path, 1, {"a": [0, value]})
    assert checkpoint.latest(tmp_path) is None


# -- the folder -------------------------------------------------------------------------------------------------------


def test_the_last_two_are_kept(tmp_path):
    for step in (1, 5, 12, 1_000_000_000):
        checkpoint.write(tmp_path, step, {"step": step})
    assert sorted(os.listdir(tmp_path)) == ["step-000000012", "step-1000000000"]
    newest = checkpoint.latest(tmp_path)
    assert checkpoint.read(newest) == {"step": 1_000_000_000}
    assert checkpoint.step_of(newest) == 1_000_000_000


def test_a_step_saved_again_is_the_newest(tmp_path):
    for value in range(12):
        checkpoint.write(tmp_path, 7, {"value": value})
    newest = checkpoint.latest(tmp_path)
    assert checkpoint.read(newest) == {"value": 11}
    assert checkpoint.step_of(newest) == 7


def test_no_folder_has_no_latest(tmp_path):
    assert checkpoint.latest(tmp_path / "none") is None


class Killed(BaseException):
    """Stands for SIGKILL: nothing may be cleaned up on its way."""


@pytest.mark.parametrize("survives", range(9))
def test_a_crash_at_any_moment_leaves_a_whole_checkpoint(tmp_path, monkeypatch, survives):
    """Dies at the n-th call to the operating system that changes the folder, without clean-up, for every n."""
    for step in (1, 2):
        checkpoint.write(tmp_path, step, {"step": step})
    calls = []

    def dying(original):
        def call(*args, **kwargs):
            calls.append(original)
            if len(calls) > survives:
                raise Killed
            return original(*args, **kwargs)

        return call

    monkeypatch.setattr(checkpoint.os, "fsync", dying(os.fsync))
    monkeypatch.setattr(checkpoint.os, "rename", dying(os.rename))
    monkeypatch.setattr(checkpoint.shutil, "rmtree", dying(shutil.rmtree))
    died = False
    try:
        checkpoint.write(tmp_path, 3, {"step": 3})
    except Killed:
        died = True
    monkeypatch.undo()
    # 3 file syncs, 1 folder sync, the rename, 1 folder sync, the old one's rename and removal: eight in all.
    assert died == (survives < 8)
    assert checkpoint.read(checkpoint.latest(tmp_path)) == {"step": 3 if survives >= 5 else 2}
    checkpoint.write(tmp_path, 4, {"step": 4})  # and the next process goes on, sweeping up
    assert checkpoint.read(checkpoint.latest(tmp_path)) == {"step": 4}
    assert len(os.listdir(tmp_path)) == 2


def test_a_full_disk_leaves_the_previous_one(tmp_path, monkeypatch):
    checkpoint.write(tmp_path, 1, {"step": 1})

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DiskError, match="Earlier checkpoints are intact"):
        checkpoint.write(tmp_path, 2, {"step": 2})
    assert os.listdir(tmp_path) == ["step-000000001"]
    assert checkpoint.read(checkpoint.latest(tmp_path)) == {"step": 1}


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "digest.json"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "empty"])
def test_damage_names_the_file(tmp_path, name, damage):
    path = checkpoint.write(tmp_path, 1, {"a": np.arange(100), "b": "text"})
    file = path / name
    data = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(data[:-7])
    elif damage == "altered":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
    blamed = name if (name, damage) != ("digest.json", "altered") else "step-000000001"
    with pytest.raises(CheckpointError, match=blamed):
        checkpoint.read(path)


def test_another_format_version_is_refused(tmp_path):
    path = checkpoint.write(tmp_path, 1, {})
    digest = json.loads((path / "digest.json").read_text())
    (path / "digest.json").write_text(json.dumps(digest | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99, but this Trueline reads 1"):
        checkpoint.read(path)
