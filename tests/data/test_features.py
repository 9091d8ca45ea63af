"""The shards of the feature cache: complete or computed again, and nothing half written on a full disk."""

import resource

import numpy as np
import pytest

from vse_tf.data import features
from vse_tf.data.features import SHARD, CachedFeatures, CachedTokens, FeatureShards
from vse_tf.errors import UserError

COUNT = SHARD + 5
FEATURE = ((3,), "float32")


def filled(folder):
    shards, computed = FeatureShards(folder, COUNT, FEATURE), []

    def compute(views, start, end):
        for view in views:
            computed.append((view, start))
            yield view, np.arange(start, end, dtype=np.float32)[:, None] * np.ones([1, 3], np.float32)

    shards.fill(["centre", "flip"], compute)
    return shards, computed


def damage(path, how):
    contents = path.read_bytes()
    path.write_bytes({"cut": contents[:-40], "empty": b"", "header": b"\x93NUMPY" + bytes(20)}[how])


@pytest.mark.parametrize("how", ["cut", "empty", "header"])
def test_a_damaged_shard_is_computed_again_and_no_other(tmp_path, how):
    assert len(filled(tmp_path)[1]) == 4
    damage(tmp_path / f"flip-{SHARD:09d}.npy", how)
    assert [path.name for path in FeatureShards(tmp_path, COUNT, FEATURE).remove_damaged(["centre", "flip"])] == [
        f"flip-{SHARD:09d}.npy"
    ]
    shards, computed = filled(tmp_path)
    assert computed == [("flip", SHARD)]
    assert np.concatenate(shards.read("flip"))[:, 0].tolist() == list(range(COUNT))


def test_shards_of_other_rows_and_pickles_are_damaged(tmp_path):
    filled(tmp_path)
    np.save(tmp_path / "centre-000000000.npy", np.zeros([3, 3], np.float32))
    np.save(tmp_path / "flip-000000000.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(UserError, match="delete the file"):
        FeatureShards(tmp_path, COUNT, FEATURE).read("flip")
    assert len(FeatureShards(tmp_path, COUNT, FEATURE).remove_damaged(["centre", "flip"])) == 2


def test_a_full_disk_leaves_nothing_half_and_says_so(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        # What NumPy writes by itself ends in "… requested and … written".
        with pytest.raises(UserError, match=r"data\.cache_dir: cannot write .*: File too large; free some space, or"):
            filled(tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_that_is_none_is_found_before_computing(tmp_path):
    (tmp_path / "cache").touch()
    shards = FeatureShards(tmp_path / "cache" / "features", COUNT, FEATURE)
    with pytest.raises(UserError, match=r"data\.cache_dir: .*cache is not a folder"):
        shards.fill(["centre"], lambda *_: pytest.fail("computed"))


def test_states_of_tokens_come_back_padded_with_zeros(tmp_path):
    random = np.random.default_rng(0)
    lengths = random.integers(0, 6, COUNT)
    states = [random.normal(size=(length, 4)).astype(np.float16) for length in lengths]
    shards = FeatureShards(tmp_path, COUNT, ((4,), "float16"), lengths)
    shards.fill(["caption"], lambda views, start, end: [("caption", np.concatenate(states[start:end]))])
    cached = CachedTokens(shards.read("caption"), lengths, shards.size)
    assert len(cached) == COUNT
    for rows in (np.array([0, SHARD - 1, SHARD, COUNT - 1, SHARD]), random.integers(0, COUNT, 40)):
        got = cached.load(rows)
        assert got.dtype == np.float16
        assert got.shape == (len(rows), max(1, lengths[rows].max()), 4)
        for row, item in zip(rows, got, strict=True):
            np.testing.assert_array_equal(item[: lengths[row]], states[row])
            assert not item[lengths[row] :].any()
    empty = np.flatnonzero(lengths == 0)[:2]
    assert cached.load(empty).shape == (2, 1, 4)


def test_large_features_come_in_small_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD_BYTES", 7 * 4 * 3 * 5 + 1)
    shards = FeatureShards(tmp_path, 30, ((3, 5), "float32"))
    values = np.random.default_rng(0).normal(size=(30, 3, 5)).astype(np.float32)
    shards.fill(["centre"], lambda views, start, end: [("centre", values[start:end])])
    assert [len(shard) for shard in shards.read("centre")] == [7, 7, 7, 7, 2]
    rows = np.array([29, 0, 7, 6, 13])
    np.testing.assert_array_equal(CachedFeatures([shards.read("centre")], np.arange(30)).load(rows), values[rows])


def test_states_of_other_lengths_are_damaged(tmp_path):
    lengths = np.full(COUNT, 2)
    shards = FeatureShards(tmp_path, COUNT, FEATURE, lengths)
    shards.fill(["caption"], lambda views, start, end: [("caption", np.ones([2 * (end - start), 3], np.float32))])
    assert shards.remove_damaged(["caption"]) == []
    lengths[3] += 1
    again = FeatureShards(tmp_path, COUNT, FEATURE, lengths)
    assert [path.name for path in again.remove_damaged(["caption"])] == ["caption-000000000.npy"]
