import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_files import captions, read_quietly, settings_for

from vse_tf.data.sources import precomp
from vse_tf.data.sources.precomp import FeatureImages, non_finite_rows, run_starts
from vse_tf.errors import UserError


def features(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def write(folder: Path, split: str, array: np.ndarray, lines: list[str]) -> Path:
    np.save(folder / f"{split}_ims.npy", array)
    (folder / f"{split}_caps.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def load(folder: Path, **changes):
    return read_quietly(settings_for(folder, "precomp", annotations=str(folder), **changes))


def numbered(count: int) -> list[str]:
    return [f"c{i}" for i in range(count)]


@pytest.mark.parametrize("shape", [(6,), (3, 6)])
@pytest.mark.parametrize("each", [1, 2, 5])
def test_a_whole_number_of_captions_an_image(tmp_path, shape, each):
    array = features(4, *shape)
    write(tmp_path, "train", array, numbered(4 * each))
    write(tmp_path, "dev", array[:1], ["x"])
    collection = load(tmp_path)
    assert list(collection.splits) == ["train", "val"]
    train = collection.splits["train"]
    assert captions(collection)["train"] == [tuple(numbered(4 * each)[i * each : (i + 1) * each]) for i in range(4)]
    assert train.images.kind == "features"
    assert isinstance(train.images.array, np.memmap)
    np.testing.assert_array_equal(train.images.load(np.array([2, 0, 2])), array[[2, 0, 2]])
    assert train.images.load(np.array([1])).dtype == np.float32
    assert train.records[0].image.endswith("train_ims.npy[0]")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_repeated_for_each_caption_are_one_image(tmp_path, dtype, order):
    array = (features(4, 3, 6) * 100).astype(dtype)
    counts = [5, 1, 3, 2]
    write(tmp_path, "test", np.asarray(np.repeat(array, counts, axis=0), order=order), numbered(11))
    split = load(tmp_path).splits["test"]
    assert [len(record.captions) for record in split.records] == counts
    assert split.captions == numbered(11)
    np.testing.assert_array_equal(split.images.load(np.arange(4)), array.astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 7)), min_size=1, max_size=12), st.integers(1, 5))
def test_runs_are_found_across_any_blocks(runs, rows_a_block):
    values = np.repeat([value for value, _ in runs], [count for _, count in runs])
    # Equal where a glance falls and different behind it, and not numbers at all.
    array = np.full([len(values), 40], np.nan, np.float32)
    array[:, 30] = values
    wanted = [i for i in range(len(values)) if i == 0 or values[i] != values[i - 1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precomp, "BLOCK_BYTES", array[0].nbytes * rows_a_block)
        assert run_starts(array) == wanted


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 19)), st.sampled_from([np.nan, np.inf, -np.inf, 1e300]), st.integers(1, 7))
def test_rows_that_are_not_finite_as_float32_are_found(bad, value, rows_a_block):
    array = features(20, 2, 3).astype(np.float64)
    for row in bad:
        array[row, row % 2, row % 3] = value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precomp, "BLOCK_BYTES", array[0].nbytes * rows_a_block)
        assert non_finite_rows(array) == sorted(bad)


def test_rows_stay_dense_where_an_image_is_left_out(tmp_path):
    array = features(5, 4)
    array[1, 2] = np.nan
    lines = numbered(10)
    lines[6] = lines[7] = "  "
    lines[8] = ""
    write(tmp_path, "train", array, lines)
    with pytest.raises(UserError) as info:
        load(tmp_path)
    for part in ("5 problems", "train_ims.npy[1]: non-finite features", "train_caps.txt: line 7: empty caption"):
        assert part in str(info.value)
    assert "image without captions" in str(info.value)
    split = load(tmp_path, on_bad="skip").splits["train"]
    assert [record.captions for record in split.records] == [("c0", "c1"), ("c4", "c5"), ("c9",)]
    assert [record.row for record in split.records] == [0, 1, 2]
    np.testing.assert_array_equal(split.images.load(np.arange(3)), array[[0, 2, 4]])
    # Nothing is looked at when nothing should be.
    with pytest.raises(UserError, match="4 problems"):
        load(tmp_path, verify="none")


def test_a_repeated_row_that_is_not_finite_is_one_problem(tmp_path):
    array = np.repeat(np.array([[1.0], [np.nan], [2.0]]), 3, axis=0)
    write(tmp_path, "train", array, numbered(9))
    collection = load(tmp_path, on_bad="skip")
    assert [problem.what for problem in collection.skipped] == ["non-finite features"]
    assert [len(record.captions) for record in collection.splits["train"].records] == [3, 3]


def test_equal_captions_stay(tmp_path):
    write(tmp_path, "train", features(1, 4), ["same", "same"])
    assert captions(load(tmp_path)) == {"train": [("same", "same")]}


def test_line_ends_marks_and_bytes_that_are_not_utf_8(tmp_path):
    write(tmp_path, "train", features(3, 4), [])
    (tmp_path / "train_caps.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo \xe2\x80\xa8 \x0c lines\r\ngr\xfcn")
    with pytest.raises(UserError, match="line 3: caption unreadable: not UTF-8: byte 0xfc"):
        load(tmp_path)
    assert captions(load(tmp_path, on_bad="skip")) == {"train": [("one",), ("two \u2028 \x0c lines",)]}


@pytest.mark.parametrize("on_bad", ["fail", "skip"])
@pytest.mark.parametrize(("rows", "lines"), [(4, 7), (4, 3), (4, 0), (6, 4)])
def test_counts_that_do_not_fit(tmp_path, rows, lines, on_bad):
    write(tmp_path, "train", features(rows, 2), numbered(lines))
    with pytest.raises(UserError, match=f"has {rows} rows and .* {lines} lines"):
        load(tmp_path, on_bad=on_bad)


def test_arrays_that_are_none(tmp_path):
    write(tmp_path, "train", features(1, 1), ["x"])
    path = tmp_path / "train_ims.npy"
    for array in (features(3), features(1, 1, 1, 1), np.zeros([0, 4]), np.array([["a"]]), np.array([[1j]])):
        np.save(path, array)
        with pytest.raises(UserError, match=r"train_ims\.npy: it holds an array .* are expected"):
            load(tmp_path, on_bad="skip")
    np.save(path, np.array([[{}]], object))
    with pytest.raises(UserError, match=r"train_ims\.npy: not an \.npy file of plain numbers"):
        load(tmp_path)
    for contents in (b"", b"text\n", b"\x93NUMPY\x01\x00"):
        path.write_bytes(contents)
        with pytest.raises(UserError, match=r"train_ims\.npy: not an \.npy file"):
            load(tmp_path)
    np.save(path, features(100, 4))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"train_ims\.npy: "):
        load(tmp_path)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"--data\.annotations"):
        read_quietly(settings_for(tmp_path, "precomp"))
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "gone")
    with pytest.raises(UserError, match=r"no \*_ims\.npy and \*_caps\.txt there"):
        load(tmp_path)
    (tmp_path / "a_ims.npy").touch()
    (tmp_path / "b_caps.txt").touch()
    with pytest.raises(UserError, match=r"a_ims\.npy has no a_caps\.txt; b_caps\.txt has no b_ims\.npy"):
        load(tmp_path)


def test_dev_and_val_are_the_same_split(tmp_path):
    for name in ("dev", "val"):
        write(tmp_path, name, features(1, 1), ["x"])
    with pytest.raises(UserError, match="'dev' and 'val' both mean 'val'"):
        load(tmp_path)


def test_the_file_is_looked_through_once(tmp_path, monkeypatch):
    write(tmp_path, "train", np.repeat(features(3, 4), 2, axis=0), numbered(6))
    first = captions(load(tmp_path))
    looked: list[str] = []

    def spy(name, function):
        def looking(*arguments):
            looked.append(name)
            return function(*arguments)

        monkeypatch.setattr(precomp, name, looking)

    for name in ("run_starts", "non_finite_rows"):
        spy(name, getattr(precomp, name))
    assert captions(load(tmp_path)) == first
    assert looked == []
    write(tmp_path, "train", np.repeat(features(2, 4), 3, axis=0), numbered(6))
    assert captions(load(tmp_path)) == {"train": [("c0", "c1", "c2"), ("c3", "c4", "c5")]}
    assert looked == ["run_starts", "non_finite_rows"]


def test_loading_gives_a_fresh_array():
    array = features(2, 3)
    images = FeatureImages(array, np.array([1]))
    images.load(np.array([0]))[:] = 0
    assert len(images) == 1
    assert array.all()


@pytest.mark.parametrize("other", [(7,), (3, 6), (1, 6)])
def test_splits_of_other_shapes_are_named_with_both(tmp_path, other):
    write(tmp_path, "train", features(4, 6), numbered(4))
    write(tmp_path, "dev", features(4, *other), numbered(4))
    wanted = rf"dev_ims.npy: features {re.escape(str(other))} per image, but \(6,\) in .*train_ims.npy"
    for on_bad in ("fail", "skip"):
        with pytest.raises(UserError, match=wanted):
            load(tmp_path, on_bad=on_bad)
