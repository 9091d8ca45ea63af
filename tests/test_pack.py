"""`vse-tf pack`: every image and caption, the same bytes again, and going on after a stop."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.sources.source_files import captions, image_bytes, read_quietly, settings_for, write_json
from vse_tf import pack
from vse_tf.artifacts.provenance import fingerprint
from vse_tf.data import shard_writer
from vse_tf.data.sources import read
from vse_tf.errors import UserError


@pytest.fixture
def karpathy(tmp_path):
    """Images with equal names in two folders, names that are no keys, and equal captions; arguments that read them."""
    names = ["a/1.jpg", "b/1.jpg", "a/x.y.jpg", "a/2.PNG", "b/no suffix", "b/ß.jpg"]
    images = []
    for number, name in enumerate(names):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes("png" if name.endswith("PNG") else "jpeg", size=(40, 30), seed=number))
        sentences = [{"raw": text, "sentid": 2 * number + i} for i, text in enumerate(["same", "same"])]
        split = "val" if number == 5 else "train"
        images.append({"filename": name, "split": split, "cocoid": 70 + number, "sentences": sentences})
    file = write_json(tmp_path / "k.json", {"images": images})
    return ["--data.annotations", file, "--data.images", str(tmp_path / "images")]


def packed(tmp_path, argv, name="shards", **options):
    pairs = [part for key, value in options.items() for part in (f"--{key.replace('__', '.')}", str(value))]
    pack.main([*argv, "--data.cache_dir", str(tmp_path / "cache"), "--output", str(tmp_path / name), *pairs])
    return tmp_path / name


def same(one, other):
    assert captions(one) == captions(other)
    for name, split in one.splits.items():
        theirs = other.splits[name]
        assert [(r.image_id, r.caption_ids) for r in split.records] == [
            (r.image_id, r.caption_ids) for r in theirs.records
        ]
        assert [split.images.read(row) for row in range(len(split))] == [
            theirs.images.read(row) for row in range(len(split))
        ]


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.tar")}


def test_what_is_packed_is_what_is_read(tmp_path, karpathy, capsys):
    folder = packed(tmp_path, karpathy)
    assert "6 images and 12 captions in 2 shards" in capsys.readouterr().out
    before = read_quietly(
        settings_for(tmp_path, "karpathy", annotations=karpathy[1], images=karpathy[3]),
    )
    after = read_quietly(settings_for(tmp_path, "webdataset", annotations=str(folder)))
    same(before, after)
    with tarfile.open(folder / "train-00000.tar") as archive:
        images = [name for name in archive.getnames() if not name.endswith(".json")]
    # A name that is no key, or is there already, is replaced by a number.
    assert images == ["1.jpg", "00000001.jpg", "00000002.jpg", "2.PNG", "00000004.jpg"]
    # Packed again, from the shards.
    again = packed(tmp_path, ["--data.annotations", str(folder)], "again")
    assert hashes(again) == hashes(folder)


def test_plain_names_keep_the_fingerprint_of_the_data(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(5):
        (tmp_path / "images" / f"{number}_a.jpg").write_bytes(image_bytes(seed=number))
    lines = [f"{number}_a.jpg,text {number},{'val' if number > 3 else 'train'}" for number in range(5)]
    (tmp_path / "c.csv").write_text("\n".join(["image,caption,split", *lines]))
    argv = ["--data.annotations", str(tmp_path / "c.csv"), "--data.images", str(tmp_path / "images")]
    before = read_quietly(settings_for(tmp_path, "table", annotations=argv[1], images=argv[3]))
    after = read_quietly(settings_for(tmp_path, "webdataset", annotations=str(packed(tmp_path, argv))))
    assert fingerprint(before) == fingerprint(after)


def test_a_stopped_pack_goes_on_and_ends_in_the_same_bytes(tmp_path, karpathy, monkeypatch):
    monkeypatch.setattr(pack, "MB", 4000)
    undisturbed = packed(tmp_path, karpathy, "undisturbed", shard_mb=1)
    assert len(hashes(undisturbed)) == 6
    assert all(path.stat().st_size <= 10240 for path in undisturbed.glob("*.tar"))
    write, calls = shard_writer._contents, []

    def stop_at_third(split, row):
        calls.append(row)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return write(split, row)

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "_contents", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            packed(tmp_path, karpathy, shard_mb=1)
    done = hashes(tmp_path / "shards")
    assert len(done) == 3
    calls.clear()
    monkeypatch.setattr(shard_writer, "_contents", lambda split, row: calls.append(row) or write(split, row))
    assert hashes(packed(tmp_path, karpathy, shard_mb=1)) == hashes(undisturbed)
    assert len(calls) == 3
    assert not list((tmp_path / "shards").glob(".*"))


def test_a_folder_of_other_shards_is_refused(tmp_path, karpathy):
    packed(tmp_path, karpathy)
    (tmp_path / "images" / "a" / "1.jpg").write_bytes(image_bytes(seed=9))
    with pytest.raises(UserError, match="holds shards of other data, or of another size"):
        packed(tmp_path, karpathy)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UserError, match="holds something that is no set of shards"):
        packed(tmp_path, karpathy, "full")


def test_an_image_that_goes_meanwhile(tmp_path, karpathy, monkeypatch, capsys):
    monkeypatch.setattr("vse_tf.data.sources.read", lambda data, read=read: _without(read(data, progress=False)))
    with pytest.raises(UserError, match=r"b/1\.jpg: missing image; fix it, or leave such images out"):
        packed(tmp_path, karpathy)
    (tmp_path / "images" / "b" / "1.jpg").write_bytes(image_bytes())
    folder = packed(tmp_path, karpathy, "other", data__on_bad="skip")
    assert "b/1.jpg: missing image" in capsys.readouterr().err
    assert len(read_quietly(settings_for(tmp_path, "webdataset", annotations=str(folder))).splits["train"]) == 4


def _without(collection):
    Path(next(path for path in collection.splits["train"].images.paths if path.endswith("b/1.jpg"))).unlink(
        missing_ok=True
    )
    return collection


def test_generated_scenes_are_packed_as_png(tmp_path):
    argv = ["--data.shapes.train_scenes", "4", "--data.shapes.gallery_scenes", "4", "--data.shapes.size", "16"]
    folder = packed(tmp_path, argv)
    found = read_quietly(settings_for(tmp_path, "webdataset", annotations=str(folder)))
    assert {name: len(split) for name, split in found.splits.items()}["train"] == 4
    assert Image.open(io.BytesIO(found.splits["train"].images.read(0))).size == (16, 16)


def test_features_are_not_packed(tmp_path):
    np.save(tmp_path / "train_ims.npy", np.ones([2, 3], np.float32))
    (tmp_path / "train_caps.txt").write_text("x\ny\n")
    with pytest.raises(UserError, match="features and no images"):
        packed(tmp_path, ["--data.annotations", str(tmp_path)])


def test_the_description_of_a_sample(tmp_path, karpathy):
    with tarfile.open(packed(tmp_path, karpathy) / "val-00000.tar") as archive:
        values = json.load(archive.extractfile("ß.json"))
    assert values == {"captions": ["same", "same"], "split": "val", "image_id": 75, "caption_ids": [10, 11]}
