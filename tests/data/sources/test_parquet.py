"""Parquet files: the layouts of model hubs, what is refused, and that every image is the bytes that went in."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.data.sources.source_files import captions, image_bytes, problems, read_quietly, settings_for
from vse_tf.config import TableSettings
from vse_tf.data.sources import parquet as module
from vse_tf.errors import UserError

IMAGES = [image_bytes(size=(20, 30), seed=number) for number in range(6)]


def write(path, rows=None, group=2, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows) if rows is not None else pa.table(columns)
    parquet.write_table(table, path, row_group_size=group)
    return path


def cells(*numbers, named=True):
    return [{"bytes": IMAGES[number], "path": f"{number}.jpg" if named else None} for number in numbers]


def read(folder, annotations=None, **changes):
    return read_quietly(settings_for(folder, "parquet", annotations=annotations or str(folder), **changes))


def contents(split):
    return [split.images.read(row) for row in range(len(split))]


LAYOUTS = {
    "a caption": {"image": cells(0, 1, 2), "caption": ["a", "b", "c"]},
    "a list": {"image": cells(0, 1, 2), "caption": [["a", "aa"], ["b"], ["c", "c"]]},
    "captions": {"img": cells(0, 1, 2), "captions": [["a", "aa"], ["b"], ["c"]]},
    "columns": {"image": cells(0, 1, 2), "caption_10": ["z", "z", "z"], "caption_2": ["a", None, "c"]},
    "bytes": {"image": IMAGES[:3], "text": ["a", "b", "c"], "filename": ["x/0.jpg", "1.jpg", "2.jpg"]},
    "rows of one image": {"image": cells(0, 1, 0, 2), "text": ["a", "b", "aa", "c"]},
}
CAPTIONS = {
    "a caption": [("a",), ("b",), ("c",)],
    "a list": [("a", "aa"), ("b",), ("c", "c")],
    "captions": [("a", "aa"), ("b",), ("c",)],
    "columns": [("a", "z"), ("z",), ("c", "z")],
    "bytes": [("a",), ("b",), ("c",)],
    "rows of one image": [("a", "aa"), ("b",), ("c",)],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layouts_of_hubs(tmp_path, layout):
    path = write(tmp_path / "data" / "train-00000-of-00001-0f3a.parquet", **LAYOUTS[layout])
    split = read(tmp_path).splits["train"]
    assert captions(read(tmp_path)) == {"train": CAPTIONS[layout]}
    assert contents(split) == IMAGES[:3]
    assert [record.image for record in split.records] == [f"{path}/{number}.jpg" for number in range(3)]


def test_splits_of_names_and_columns(tmp_path):
    for number, name in enumerate(("train", "validation", "test")):
        write(tmp_path / f"{name}-0.parquet", image=cells(number, 3 + number), caption=["x", "y"])
    assert {name: len(split) for name, split in read(tmp_path).splits.items()} == {"train": 2, "val": 2, "test": 2}
    path = write(
        tmp_path / "one" / "TEST_all.parquet",
        image=cells(0, 1, 2),
        caption=list("abc"),
        split=["train", "val", "restval"],
    )
    assert captions(read(tmp_path, str(path))) == {"train": [("a",), ("c",)], "val": [("b",)]}


def test_two_images_of_one_name_are_two(tmp_path):
    twice = [{"bytes": IMAGES[number], "path": "x.jpg"} for number in (0, 1)]
    write(tmp_path / "train.parquet", image=[*twice, *cells(2, named=False)], caption=list("abc"))
    split = read(tmp_path).splits["train"]
    assert contents(split) == IMAGES[:3]
    assert len(set(split.images.names)) == 3
    assert split.images.names[2].endswith("/00000002.jpg")


def test_images_that_are_paths_need_their_folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.jpg").write_bytes(IMAGES[0])
    names = ["0.jpg", "../c.jpg", "/etc/hostname"]
    write(tmp_path / "train.parquet", image=[{"bytes": None, "path": name} for name in names], caption=list("abc"))
    with pytest.raises(UserError, match=r"row 0: image without bytes: it names '0\.jpg'; name the image folder"):
        read(tmp_path)
    found = read(tmp_path, images=str(tmp_path / "images"), on_bad="skip")
    assert contents(found.splits["train"]) == IMAGES[:1]
    assert len(found.skipped) == 2


BAD = {
    "no column": ({"picture": ["x"], "caption": ["x"]}, "no column 'image'; name the images' with --data.table.image"),
    "no captions": ({"image": cells(0), "words": ["x"]}, "no column 'caption'; name the captions' with"),
    "numbers": ({"image": [1.5], "caption": ["x"]}, "the column image holds double, not images"),
    "a number": ({"image": cells(0), "caption": [5]}, "wrong type: the caption is a number"),
    "bytes": ({"image": cells(0), "caption": [b"\xff"]}, "wrong type: the caption is bytes"),
    "nothing": ({"image": cells(0), "caption": pa.array([None], pa.string())}, "image without captions"),
    "null": ({"image": pa.array([None], pa.struct({"bytes": pa.binary()})), "caption": ["x"]}, "image without bytes"),
    "no picture": ({"image": [b"GIF"], "caption": ["x"]}, "undecodable image: not a JPEG"),
    "not text": (
        {"image": cells(0), "caption": pa.array([b"\xffdog"]).view(pa.string())},
        "caption unreadable: not UTF-8: byte 0xff",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_and_columns_are_one_line(tmp_path, kind):
    columns, wanted = BAD[kind]
    path = write(tmp_path / "train.parquet", **columns)
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert wanted in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_named_columns(tmp_path):
    path = write(tmp_path / "x.parquet", image=cells(0, 1), photo=cells(2, 3), words=["a", "b"], part=["train", "dev"])
    table = TableSettings("photo", "words", "part")
    found = read(tmp_path, str(path), table=table)
    assert contents(found.splits["train"]) + contents(found.splits["val"]) == IMAGES[2:4]
    with pytest.raises(UserError, match=r"no column 'parts' \(data\.table\.split_column\)"):
        read(tmp_path, str(path), table=TableSettings("photo", "words", "parts"))


def test_a_damaged_row_group_and_a_truncated_file(tmp_path):
    path = write(tmp_path / "train.parquet", image=cells(*range(6)), caption=list("abcdef"))
    group = parquet.ParquetFile(path).metadata.row_group(1)
    start = group.column(0).data_page_offset
    whole = path.read_bytes()
    path.write_bytes(whole[:start] + b"\xff" * 40 + whole[start + 40 :])
    with pytest.raises(
        UserError, match=r"train\.parquet: row group 1: damaged row group: .*2 of its 2 rows are not read"
    ):
        read(tmp_path)
    found = read(tmp_path, on_bad="skip")
    assert contents(found.splits["train"]) == [*IMAGES[:2], *IMAGES[4:]]
    assert problems(found) == ["damaged row group"]
    path.write_bytes(whole[:-20])
    with pytest.raises(UserError, match=r"train\.parquet: damaged shard: ") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_images_are_copied_once_and_again_for_a_changed_file(tmp_path, monkeypatch, capsys):
    made = []
    original = module.ParquetShard.copy
    monkeypatch.setattr(
        module.ParquetShard, "copy", lambda self, *rest: made.append(self.path.name) or original(self, *rest)
    )
    for number in range(2):
        write(tmp_path / f"train-{number}.parquet", image=cells(number), caption=["x"])
    settings = settings_for(tmp_path, "parquet", annotations=str(tmp_path))
    first = module.read_parquet(settings)
    told = capsys.readouterr().err
    assert "copying the images of 2 Parquet files to " in told and "GB, once" in told
    module.read_parquet(settings)
    assert made == ["train-0.parquet", "train-1.parquet"]
    assert "copying" not in capsys.readouterr().err
    write(tmp_path / "train-1.parquet", image=cells(4, 5), caption=["x", "y"])
    assert contents(read(tmp_path).splits["train"]) == [IMAGES[0], *IMAGES[4:]]
    assert made[2:] == ["train-1.parquet"]
    with pytest.raises(OSError, match=r"No such file"):
        first.splits["train"].images.read(1)


@pytest.mark.parametrize("spoil", ["{", "[]", '{"bytes": 0}', None])
def test_a_spoilt_copy_is_made_again(tmp_path, spoil):
    write(tmp_path / "train.parquet", image=cells(0, 1), caption=["x", "y"])
    read(tmp_path)
    (entry,) = (tmp_path / "cache" / "parquet").iterdir()
    (index,) = entry.glob("*.json")
    if spoil is None:
        next(entry.glob("*.images")).write_bytes(b"x")
    else:
        index.write_text(spoil)
    assert contents(read(tmp_path).splits["train"]) == IMAGES[:2]
    assert json.loads(index.read_text())["bytes"] == len(IMAGES[0]) + len(IMAGES[1])


def test_a_cache_that_is_too_small_is_one_line(tmp_path):
    write(tmp_path / "train.parquet", image=cells(0, 1), caption=["x", "y"])
    with pytest.raises(UserError, match=r"data\.cache_size: the images of the Parquet files take"):
        read(tmp_path, cache_size=1e-7)


def test_more_bytes_than_announced_are_damage(tmp_path, monkeypatch):
    """A dictionary makes a small file of one image on many rows; here they are under different names."""
    monkeypatch.setattr("vse_tf.data.sources.parquet_rows.SPARE_BYTES", 1000)
    image = pa.array([IMAGES[0]] * 400)
    path = tmp_path / "train.parquet"
    table = pa.table({"image": image, "caption": ["x"] * 400, "filename": [f"{number}.jpg" for number in range(400)]})
    parquet.write_table(table, path, row_group_size=400)
    with pytest.raises(UserError, match="damaged shard: its images are larger than it announces"):
        read(tmp_path)
