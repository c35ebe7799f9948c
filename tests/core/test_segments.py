import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trueline.core.errors import CheckpointError
from trueline.core.segments import Segments


def rows(start, n):
    return {"obs": np.arange(start, start + n, dtype=np.float32)[:, None] * [1, 2], "done": np.arange(n) % 2 == 0}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
def test_rewinding_gives_the_rows_of_that_moment(tmp_path_factory, lengths, data):
    folder = tmp_path_factory.mktemp("replay")
    segments, moments, start = Segments(folder), [], 0
    for n in lengths:
        moments.append((segments.cursor(), start))
        segments.append(rows(start, n))
        start += n
    cursor, count = data.draw(st.sampled_from(moments))
    resumed = Segments(folder)
    assert resumed.rows == start
    resumed.rewind(cursor)
    assert resumed.rows == count
    resumed.append(rows(count, 2))
    expected = np.arange(count + 2, dtype=np.float32)[:, None] * [1, 2]
    np.testing.assert_array_equal(resumed.read()["obs"], expected)
    last = data.draw(st.integers(0, count + 4))
    np.testing.assert_array_equal(
        Segments(folder).read(last).get("obs", expected[:0]), expected[max(count + 2 - last, 0) :]
    )


def test_nothing_written_reads_as_nothing(tmp_path):
    assert Segments(tmp_path).read() == {}


def test_a_torn_last_segment_is_cut_and_a_torn_earlier_one_refused(tmp_path):
    segments = Segments(tmp_path)
    for start in (0, 3, 6):
        segments.append(rows(start, 3))
    paths = sorted(tmp_path.glob("segment-*"))
    paths[2].write_bytes(paths[2].read_bytes()[:-5])
    (tmp_path / ".segment-000003.safetensors.1.part").write_bytes(b"half")
    assert Segments(tmp_path).rows == 6
    assert sorted(tmp_path.iterdir()) == paths[:2]
    paths[0].write_bytes(paths[0].read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="segment-000000"):
        Segments(tmp_path)


def test_an_altered_or_missing_segment_is_named_and_nothing_is_removed(tmp_path):
    segments = Segments(tmp_path)
    segments.append(rows(0, 3))
    cursor = segments.cursor()
    segments.append(rows(3, 3))
    first = tmp_path / "segment-000000.safetensors"
    whole = first.read_bytes()
    first.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"segment-000000.* was altered"):
        segments.read()
    with pytest.raises(CheckpointError, match=r"segment-000000.* was altered"):
        Segments(tmp_path).rewind(cursor)
    assert len(list(tmp_path.iterdir())) == 2
    first.unlink()
    with pytest.raises(CheckpointError, match=r"segment-000000.* is missing"):
        Segments(tmp_path).rewind(cursor)


@pytest.mark.parametrize(
    "wrong",
    [
        {"obs": np.zeros((2, 2), np.float32), "done": np.zeros(3, bool)},
        {"obs": np.zeros((2, 2), np.float32)},
        {"obs": np.zeros((2, 3), np.float32), "done": np.zeros(2, bool)},
        {"obs": np.zeros((2, 2)), "done": np.zeros(2, bool)},
        {"obs": np.zeros((0, 2), np.float32), "done": np.zeros(0, bool)},
    ],
)
def test_rows_of_another_shape_are_refused(tmp_path, wrong):
    segments = Segments(tmp_path)
    segments.append({"obs": np.zeros((2, 2), np.float32), "done": np.zeros(2, bool)})
    with pytest.raises(ValueError, match="segment"):
        segments.append(wrong)
    assert segments.rows == 2
