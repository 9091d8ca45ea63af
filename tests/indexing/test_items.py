"""The items of folders, lists and caption files."""

import os
from pathlib import Path

import pytest

from tests.indexing.collections import draw
from vse_tf.artifacts.index import Item
from vse_tf.data.records import Problem
from vse_tf.errors import UserError
from vse_tf.indexing import items as collection
from vse_tf.indexing.items import Items, caption_items, image_items, read_queries


def ids(items):
    return [found.id for found in items if isinstance(found, Item)]


def problems(items):
    return [str(found) for found in items if isinstance(found, Problem)]


def test_images_of_a_folder_are_in_the_order_of_their_names(tmp_path):
    for name in ("b.JPG", "a/z.png", "a/b/c.webp", "a.gif", "c.bmp", "d.jpeg"):
        draw(tmp_path / name, 0)
    for name in ("notes.txt", ".hidden.jpg", ".thumbs/x.jpg", "a/e.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = list(image_items(tmp_path))
    assert ids(found) == ["a/b/c.webp", "a/z.png", "a.gif", "b.JPG", "c.bmp", "d.jpeg"]
    stat = (tmp_path / "b.JPG").stat()
    assert found[3] == Item("b.JPG", path="b.JPG", size=stat.st_size, mtime_ns=stat.st_mtime_ns)
    assert image_items(tmp_path).root == tmp_path


def test_only_links_to_files_are_followed(tmp_path):
    draw(tmp_path / "secret.jpg", 0)
    inside = tmp_path / "images"
    draw(inside / "real" / "a.jpg", 0)
    (inside / "b.jpg").symlink_to(inside / "real" / "a.jpg")
    (inside / "c.jpg").symlink_to(tmp_path / "secret.jpg")
    (inside / "d.jpg").symlink_to(inside / "nowhere.jpg")
    (inside / "e").symlink_to(inside)
    (inside / "f").symlink_to("f")
    (inside / "g.jpg").symlink_to("g.jpg")
    (inside / "h").symlink_to(inside.parent)
    os.mkfifo(inside / "i.jpg")
    (inside / "j.png").symlink_to("/dev/zero")
    (inside / "k.jpg").mkdir()
    found = list(image_items(inside))
    assert ids(found) == ["b.jpg", "c.jpg", "real/a.jpg"]
    assert [
        (problem.where.removeprefix(f"{inside}/"), problem.what) for problem in found if not isinstance(problem, Item)
    ] == [
        ("d.jpg", "missing image: 'd.jpg' (No such file or directory)"),
        ("e", "a link to a folder is not followed"),
        ("f", "cannot be read: Too many levels of symbolic links"),
        ("g.jpg", "cannot be read: Too many levels of symbolic links"),
        ("h", "a link to a folder is not followed"),
        ("i.jpg", "not a file: 'i.jpg'"),
        ("j.png", "not a file: 'j.png'"),
    ]


def test_a_subfolder_that_cannot_be_read_is_a_problem(tmp_path, monkeypatch):
    draw(tmp_path / "locked" / "a.jpg", 0)
    draw(tmp_path / "open" / "b.jpg", 0)
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = list(image_items(tmp_path))
    assert ids(found) == ["open/b.jpg"]
    assert problems(found) == [f"{tmp_path}/locked: the folder cannot be read: Permission denied"]


def test_a_file_above_the_size_limit_is_a_problem(tmp_path):
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(2**40)
    assert "more than the limit of" in problems(image_items(tmp_path))[0]


def test_a_name_that_is_not_utf8_is_a_problem(tmp_path):
    draw(tmp_path / "a.jpg", 0)
    (tmp_path / "a.jpg").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))
    found = list(image_items(tmp_path))
    assert not ids(found)
    assert "not UTF-8: byte 0xff" in problems(found)[0]


def test_a_list_names_images_in_its_folder_or_anywhere(tmp_path):
    draw(tmp_path / "lists" / "a b.jpg", 0)
    elsewhere = draw(tmp_path / "b.jpg", 0)
    path = tmp_path / "lists" / "list.txt"
    path.write_bytes(f"\ufeffa b.jpg\r\n\n{elsewhere}\nmissing.jpg\n.\n\0\n".encode() + b"\xff.jpg\n")
    found = list(image_items(path))
    assert [(item.id, item.path) for item in found if isinstance(item, Item)] == [
        ("lists/a b.jpg", "lists/a b.jpg"),
        ("b.jpg", "b.jpg"),
    ]
    assert image_items(path).root == tmp_path
    lines = problems(found)
    assert len(lines) == 4
    for line, what in zip(lines, ("line 4: missing", "line 5: not a file", "line 6", "line 7"), strict=True):
        assert what in line


def test_names_of_a_list_are_unchanged_below_its_folder(tmp_path):
    draw(tmp_path / "lists" / "in" / "a..b.jpg", 0)
    draw(tmp_path / "lists" / "c.jpg", 0)
    path = tmp_path / "lists" / "list.txt"
    path.write_text(f"in/a..b.jpg\nin/../c.jpg\n./c.jpg\n{tmp_path}/lists/c.jpg\n")
    found = image_items(path)
    assert ids(found) == ["in/a..b.jpg", "c.jpg", "./c.jpg", "c.jpg"]
    assert found.root == tmp_path / "lists"


def test_pipes_devices_and_circular_links_in_a_list_are_problems(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("b.jpg")
    (tmp_path / "list.txt").write_text(f"a.jpg\nb.jpg\n/dev/zero\n{'x' * 300}.jpg\ngs://bucket/a.jpg\n")
    found = list(image_items(tmp_path / "list.txt"))
    assert not ids(found)
    for line, what in zip(
        problems(found), ("not a file", "symbolic links", "not a file", "too long", "No such"), strict=True
    ):
        assert what in line


def test_a_line_that_is_too_long_is_skipped_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "LINE_BYTES", 100)
    monkeypatch.setattr(collection, "MAX_SKIPPED_BYTES", 1000)
    path = tmp_path / "captions.txt"
    path.write_text(f"a dog\n{'x' * 99}\n{'y' * 350}\na cat\n")
    found = list(caption_items(path))
    assert ids(found) == ["1", "2", "4"]
    assert problems(found) == [f"{path}: line 3: longer than the limit of 100 bytes"]
    path.write_text("a dog\n" + "z" * 5000)
    with pytest.raises(UserError, match=r"captions\.txt: line 2: no line end within 1000 bytes"):
        list(caption_items(path))


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("make", [image_items, caption_items, read_queries])
def test_a_pipe_or_a_device_is_not_a_list(tmp_path, kind, make):
    path = tmp_path / "list.txt"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=f"list\\.txt: not a regular file but a {kind}"):
        make(path)


def test_captions_are_lines(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_bytes("\ufefftwo dogs\r\n\n   \nein Hund\u2028im Schnee\n".encode() + b"\xff\nlast")
    found = list(caption_items(path))
    assert [found[i] for i in (0, 1, 3)] == [
        Item("1", caption="two dogs"),
        Item("4", caption="ein Hund\u2028im Schnee"),
        Item("6", caption="last"),
    ]
    assert "line 5: not UTF-8: byte 0xff" in problems(found)[0]


@pytest.mark.parametrize(
    ("root", "where", "expected"),
    [
        ("/data/images", "/data/images/a.jpg", ("a.jpg", "no b.jpg")),
        ("/data/images", "/data/lists/a.txt: line 3", ("a.txt: line 3", "no b.jpg")),
        (None, "/data/lists/a.txt: line 3", ("a.txt: line 3", "no /data/images/b.jpg")),
        ("/", "/data/images/a.jpg", ("data/images/a.jpg", "no /data/images/b.jpg")),
    ],
)
def test_problems_are_listed_without_the_folder(root, where, expected):
    items = Items("images", Path("/data/lists/a.txt"), root and Path(root))
    problem = items.without_folder(Problem(where, "no /data/images/b.jpg"))
    assert (problem.where, problem.what) == expected


def test_mistakes_are_one_line(tmp_path):
    draw(tmp_path / "a.jpg", 0)
    (tmp_path / "utf16.txt").write_text("a.jpg", encoding="utf-16")
    for make, named in (
        (lambda: image_items(tmp_path / "a.jpg"), "--images.*one image"),
        (lambda: image_items(tmp_path / "missing"), "--images.*No such file"),
        (lambda: image_items(tmp_path / "utf16.txt"), "--images.*UTF-16"),
        (lambda: caption_items(tmp_path), "--captions.*a folder"),
        (lambda: caption_items(tmp_path / "missing"), "--captions.*No such file"),
    ):
        with pytest.raises(UserError, match=named):
            make()
