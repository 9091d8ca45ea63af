"""The feature cache's shards: whole or made again, and nothing half written on a full disk."""

import errno

import numpy as np
import pytest

from vse_tf.data.features import SHARD, FeatureShards, fill
from vse_tf.errors import UserError

COUNT = SHARD + 5


def filled(folder):
    shards, computed = FeatureShards(folder, COUNT), []

    def compute(view, start, end):
        computed.append((view, start))
        return {view: np.arange(start, end, dtype=np.float32)[:, None] * np.ones([1, 3], np.float32)}

    fill(shards, ["centre", "flip"], compute)
    return shards, computed


def damage(path, how):
    contents = path.read_bytes()
    path.write_bytes({"cut": contents[:-40], "empty": b"", "header": b"\x93NUMPY" + bytes(20)}[how])


@pytest.mark.parametrize("how", ["cut", "empty", "header"])
def test_a_damaged_shard_is_computed_again_and_no_other(tmp_path, how):
    assert len(filled(tmp_path)[1]) == 4
    damage(tmp_path / f"flip-{SHARD:09d}.npy", how)
    assert [path.name for path in FeatureShards(tmp_path, COUNT).remove_damaged(["centre", "flip"])] == [
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
        FeatureShards(tmp_path, COUNT).read("flip")
    assert len(FeatureShards(tmp_path, COUNT).remove_damaged(["centre", "flip"])) == 2


def test_a_full_disk_leaves_nothing_half(tmp_path, monkeypatch):
    def full(file, *_, **__):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"data\.cache_dir: cannot write .*No space left on device"):
        filled(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
