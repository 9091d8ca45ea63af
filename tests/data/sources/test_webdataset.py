"""Tar shards: what is read, what is refused, and that every image is the bytes that went in."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.sources.shard_files import samples, write_tar
from tests.data.sources.source_files import captions, image_bytes, problems, read_quietly, settings_for
from vse_tf.config import TableSettings
from vse_tf.data.sources import tar_shards, webdataset
from vse_tf.errors import UserError


def read(folder, annotations=None, **changes):
    return read_quietly(settings_for(folder, "webdataset", annotations=annotations or str(folder), **changes))


def contents(collection):
    """The bytes of every image by its name in the shard."""
    return {
        Path(name).name: split.images.read(row)
        for split in collection.splits.values()
        for row, name in enumerate(split.images.names)
    }


def test_img2dataset_and_lists_of_captions(tmp_path):
    write_tar(
        tmp_path / "train-00000.tar",
        {
            "000000000.jpg": image_bytes(seed=1),
            "000000000.txt": "a dog\n",
            "000000000.json": json.dumps({"caption": "a dog", "url": "http://x/1.jpg", "key": "000000000"}),
            "000000001.webp": image_bytes("webp", seed=2),
            "000000001.txt": "ein Hündchen",
            "000000002.cls": "7",
        },
    )
    write_tar(
        tmp_path / "val" / "00000.tar", {"./a/x.PNG": image_bytes("png"), "./a/x.json": '{"captions": ["a", "b"]}'}
    )
    write_tar(tmp_path / "._train-00000.tar", {"a.txt": "x"})
    collection = read(tmp_path)
    assert captions(collection) == {"train": [("a dog",), ("ein Hündchen",)], "val": [("a", "b")]}
    assert contents(collection) == {
        "000000000.jpg": image_bytes(seed=1),
        "000000001.webp": image_bytes("webp", seed=2),
        "x.PNG": image_bytes("png"),
    }
    assert collection.splits["train"].images.read(0, -5) == image_bytes(seed=1)[-5:]
    assert collection.splits["train"].records[0].image == f"{tmp_path}/train-00000.tar/000000000.jpg"


def test_the_split_of_a_sample_wins_over_the_name(tmp_path):
    values = {"caption": "a dog", "set": "restval", "image_id": 7, "caption_ids": [9]}
    write_tar(tmp_path / "test-0.tar", {"a.jpg": image_bytes(), "a.json": json.dumps(values)} | samples("b"))
    found = read(tmp_path, table=TableSettings(split_column="set"))
    assert captions(found) == {"train": [("a dog",)], "test": [("b one", "b two")]}
    assert (found.splits["train"].records[0].image_id, found.splits["train"].records[0].caption_ids) == (7, (9,))


def test_without_splits_they_are_drawn_from_the_names(tmp_path):
    write_tar(tmp_path / "0.tar", samples("abcdefghij"))
    write_tar(tmp_path / "again" / "9.tar", dict(reversed(samples("abcdefghij").items())))
    names = []
    for path in (tmp_path / "0.tar", tmp_path / "again"):
        found = read(tmp_path, str(path), val_fraction=0.2, test_fraction=0.2)
        names.append({name: {record.captions for record in split.records} for name, split in found.splits.items()})
    assert names[0] == names[1]
    assert {name: len(split) for name, split in names[0].items()} == {"train": 6, "val": 2, "test": 2}


@pytest.mark.parametrize(
    "named", ["{}", "{}/*.tar", "{}/train-{{0..1}}.tar", ["{}/train-0.tar", "{}/train-1.tar"], "{}/train-?.t*"]
)
def test_shards_are_named_in_several_ways(tmp_path, named):
    for number in range(2):
        write_tar(tmp_path / f"train-{number}.tar", samples("ab", seed=2 * number))
    names = [each.format(tmp_path) for each in ([named] if isinstance(named, str) else named)]
    assert len(read(tmp_path, names).splits["train"]) == 4


BAD = {
    "a link": ({"l.jpg": None}, "not read: 'l.jpg' is a link"),
    "an absolute name": ({"/etc/a.jpg": image_bytes(), "/etc/a.txt": "x"}, "not read: '/etc/a.jpg' leads out of"),
    "dots": ({"../a.jpg": image_bytes()}, "not read: '../a.jpg' leads out of the shard"),
    "no image": ({"a.json": '{"caption": "x"}'}, "missing image: the shard has only a.json"),
    "no caption": ({"a.jpg": image_bytes()}, "image without captions"),
    "not text": ({"a.jpg": image_bytes(), "a.txt": b"\xff\xfe\x00dog"}, "caption unreadable: not UTF-8"),
    "a number": ({"a.jpg": image_bytes(), "a.json": '{"caption": 5}'}, "wrong type: the caption is a number"),
    "broken JSON": ({"a.jpg": image_bytes(), "a.json": '{"caption'}, "caption unreadable: broken JSON"),
    "deep JSON": ({"a.jpg": image_bytes(), "a.json": "[" * 10**5}, "caption unreadable: values are nested"),
    "a list": ({"a.jpg": image_bytes(), "a.json": "[1]"}, "caption unreadable: the .json holds a list"),
    "a bad split": (
        {"a.jpg": image_bytes(), "a.json": '{"caption": "x", "split": 3}'},
        "wrong type: the split is a number",
    ),
    "a split's name": ({"a.jpg": image_bytes(), "a.json": '{"caption": "x", "split": "a/b"}'}, "bad split name: 'a/b'"),
    "no picture": ({"a.jpg": b"GIF89", "a.txt": "x"}, "undecodable image: "),
    "an empty file": ({"a.jpg": b"", "a.txt": "x"}, "undecodable image: empty file"),
    "empty": ({"a.jpg": image_bytes(), "a.txt": " \n"}, "empty caption"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_members_are_one_line_or_a_counted_skip(tmp_path, kind):
    members, wanted = BAD[kind]
    link = tarfile.TarInfo("l.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
    members = {name: link if part is None else part for name, part in members.items()}
    path = write_tar(tmp_path / "train.tar", {**members, **samples("efgh")})
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert wanted in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    found = read(tmp_path, on_bad="skip")
    assert len(found.splits["train"]) == 4
    assert wanted.split(":")[0] in problems(found)[0]


def test_two_members_of_one_name(tmp_path):
    path = tmp_path / "train.tar"
    with tarfile.open(path, "w") as archive:
        for seed, name in enumerate(("a.jpg", "a.txt", "a.jpg")):
            part = b"a dog" if name.endswith("txt") else image_bytes(seed=seed)
            member = tarfile.TarInfo(name)
            member.size = len(part)
            archive.addfile(member, io.BytesIO(part))
    with pytest.raises(UserError, match=r"train\.tar: a\.jpg: duplicate member: 'a\.jpg' is there already and is read"):
        read(tmp_path)
    assert contents(read(tmp_path, on_bad="skip")) == {"a.jpg": image_bytes(seed=0)}


@pytest.mark.parametrize("kept", [0.3, 0.8, 0.97])
def test_a_truncated_shard_keeps_its_complete_samples(tmp_path, kept):
    path = write_tar(tmp_path / "train.tar", samples("abcdefgh"))
    with tarfile.open(path) as archive:
        end = max(member.offset_data + member.size for member in archive)
    path.write_bytes(path.read_bytes()[: int(end * kept)])
    with pytest.raises(UserError, match=r"train\.tar: damaged shard: .*samples before it can be read"):
        read(tmp_path)
    found = contents(read(tmp_path, on_bad="skip"))
    assert 1 < len(found) < 8
    assert all(part == samples("abcdefgh")[name] for name, part in found.items())


def test_a_broken_header_does_not_end_the_shard_silently(tmp_path):
    path = write_tar(tmp_path / "train.tar", samples("abcd"))
    with tarfile.open(path) as archive:
        place = archive.getmember("c.jpg").offset
    broken = bytearray(path.read_bytes())
    broken[place + 150] ^= 0xFF
    path.write_bytes(broken)
    with pytest.raises(UserError, match="damaged shard: broken header at byte"):
        read(tmp_path)
    assert set(contents(read(tmp_path, on_bad="skip"))) == {"a.jpg", "b.jpg"}


NO_TARS = {"empty": b"", "text": b"no tar", "gzip": b"\x1f\x8b\x08\0", "zeros": b"\0" * 1024}


@pytest.mark.parametrize("text", NO_TARS.values(), ids=NO_TARS)
def test_what_is_no_shard_is_one_line(tmp_path, text):
    (tmp_path / "train.tar").write_bytes(text)
    with pytest.raises(UserError, match=r"train\.tar: (damaged shard|compressed by gzip)|no usable record") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_forged_header_takes_no_memory(tmp_path):
    path = write_tar(tmp_path / "train.tar", samples("a"))
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 2**33
    with tarfile.open(path) as archive:
        end = max(each.offset_data + -(-each.size // 512) * 512 for each in archive)
    with path.open("r+b") as file:
        file.seek(end)
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate(end + 2**34)
    with pytest.raises(UserError, match=r"a header of \d+ bytes, at most"):
        read(tmp_path)


def test_a_pattern_that_names_nothing(tmp_path):
    for named in ("none-*.tar", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="name the shards, their folder or a pattern"):
            read(tmp_path, str(tmp_path / named))
    with pytest.raises(UserError, match=r"train-1\.tar: cannot be read: No such file"):
        read(tmp_path, str(tmp_path / "train-{1..2}.tar"))


def test_the_index_is_made_once_and_again_for_a_changed_shard(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        webdataset, "index_tar", lambda path, *rest: made.append(path.name) or tar_shards.index_tar(path, *rest)
    )
    for number in range(2):
        write_tar(tmp_path / f"train-{number}.tar", samples("ab", seed=2 * number))
    first = read(tmp_path)
    assert captions(read(tmp_path)) == captions(first)
    assert made == ["train-0.tar", "train-1.tar"]
    write_tar(tmp_path / "train-1.tar", samples("xyz"))
    assert len(read(tmp_path).splits["train"]) == 5
    assert made == ["train-0.tar", "train-1.tar", "train-1.tar"]
    # The images of before know that they are no longer there.
    with pytest.raises(OSError, match="has changed since"):
        first.splits["train"].images.read(2)
    assert first.splits["train"].images.read(0) == samples("ab")["a.jpg"]


@pytest.mark.parametrize("spoil", ["[]", '{"version": VERSION, "result": {"samples": [["a"]], "problems": []}}', "{"])
def test_a_spoilt_index_is_made_again(tmp_path, spoil):
    write_tar(tmp_path / "train.tar", samples("ab"))
    read(tmp_path)
    (file,) = (tmp_path / "cache" / "verify").glob("tar-*.json")
    version = json.dumps(json.loads(file.read_text())["version"])
    file.write_text(spoil.replace("VERSION", version))
    assert len(read(tmp_path).splits["train"]) == 2


def test_decoding_each_image_once(tmp_path, monkeypatch):
    cut = image_bytes(size=(60, 60))[:-200]
    write_tar(tmp_path / "train.tar", {"cut.jpg": cut, "cut.txt": "x", **samples("ab")})
    assert len(read(tmp_path).splits["train"]) == 3
    for _ in range(2):
        with pytest.raises(UserError, match=r"train\.tar: cut\.jpg: undecodable image: "):
            read(tmp_path, verify="decode")
        monkeypatch.setattr("vse_tf.data.packed_images.PackedImages.read", None)
    monkeypatch.undo()
    assert len(read(tmp_path, verify="decode", on_bad="skip").splits["train"]) == 2
    assert len(read(tmp_path, verify="none").splits["train"]) == 3


def test_equal_images_of_two_splits_are_noted(tmp_path):
    write_tar(tmp_path / "train.tar", samples("ab"))
    write_tar(tmp_path / "val.tar", samples("cd", seed=1))
    (note,) = read(tmp_path).notes
    assert f"the first is {tmp_path}/train.tar/b.jpg in train and {tmp_path}/val.tar/c.jpg in val" in note


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.from_regex(r"[a-zß_ ]{1,130}", fullmatch=True), st.binary(max_size=2000), min_size=1, max_size=6
    ),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_every_image_is_the_bytes_that_went_in(tmp_path, images, kind):
    path = tmp_path / "train.tar"
    with tarfile.open(path, "w", format=kind) as archive:
        for name, part in images.items():
            for suffix, text in ((".jpg", part), (".txt", b"x")):
                member = tarfile.TarInfo(f"{name[:90] if kind == tarfile.USTAR_FORMAT else name}{suffix}")
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text))
    index = tar_shards.index_tar(path, TableSettings())
    found = {sample.name: path.read_bytes()[sample.start :][: sample.length] for sample in index.samples}
    assert set(found.values()) <= set(images.values())
    assert len(found) == len({name[:90] if kind == tarfile.USTAR_FORMAT else name for name in images})
