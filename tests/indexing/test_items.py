"""Which photos and captions a collection has."""

import os

import pytest

from tests.indexing.collections import draw
from vse_tf.artifacts.index import Item
from vse_tf.data.records import Problem
from vse_tf.errors import UserError
from vse_tf.indexing.items import captions, photos


def ids(items):
    return [found.id for found in items if isinstance(found, Item)]


def problems(items):
    return [str(found) for found in items if isinstance(found, Problem)]


def test_a_folder_gives_its_photos_in_the_order_of_their_names(tmp_path):
    for name in ("b.JPG", "a/z.png", "a/b/c.webp", "a.gif", "c.bmp", "d.jpeg"):
        draw(tmp_path / name, 0)
    for name in ("notes.txt", ".hidden.jpg", ".thumbs/x.jpg", "a/e.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = list(photos(tmp_path))
    assert ids(found) == ["a/b/c.webp", "a/z.png", "a.gif", "b.JPG", "c.bmp", "d.jpeg"]
    stat = (tmp_path / "b.JPG").stat()
    assert found[3] == Item("b.JPG", path="b.JPG", size=stat.st_size, mtime_ns=stat.st_mtime_ns)
    assert photos(tmp_path).root == tmp_path


def test_links_stay_in_the_folder(tmp_path):
    draw(tmp_path / "secret.jpg", 0)
    inside = tmp_path / "photos"
    draw(inside / "real" / "a.jpg", 0)
    (inside / "b.jpg").symlink_to(inside / "real" / "a.jpg")
    (inside / "c.jpg").symlink_to(tmp_path / "secret.jpg")
    (inside / "d.jpg").symlink_to(inside / "nowhere.jpg")
    (inside / "e").symlink_to(inside)
    found = list(photos(inside))
    assert ids(found) == ["b.jpg", "real/a.jpg"]
    told = " ".join(problems(found))
    for expected in ("c.jpg: a link out", "d.jpg: missing image", "e: a link to a folder"):
        assert expected in told


def test_a_name_that_is_not_utf8_is_listed(tmp_path):
    draw(tmp_path / "a.jpg", 0)
    (tmp_path / "a.jpg").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))
    found = list(photos(tmp_path))
    assert not ids(found)
    assert "not UTF-8: byte 0xff" in problems(found)[0]


def test_a_list_names_photos_from_its_own_folder_or_anywhere(tmp_path):
    draw(tmp_path / "lists" / "a b.jpg", 0)
    elsewhere = draw(tmp_path / "b.jpg", 0)
    path = tmp_path / "lists" / "list.txt"
    path.write_bytes(f"\ufeffa b.jpg\r\n\n{elsewhere}\nmissing.jpg\n.\n\0\n".encode() + b"\xff.jpg\n")
    found = list(photos(path))
    assert ids(found) == ["a b.jpg", str(elsewhere)]
    told = problems(found)
    assert len(told) == 4
    for line, what in zip(told, ("line 4: missing", "line 5: not a file", "line 6", "line 7"), strict=True):
        assert what in line


def test_captions_are_lines(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_bytes("\ufefftwo dogs\r\n\n   \nein Hund\u2028im Schnee\n".encode() + b"\xff\nlast")
    found = list(captions(path))
    assert [found[i] for i in (0, 1, 3)] == [
        Item("1", caption="two dogs"),
        Item("4", caption="ein Hund\u2028im Schnee"),
        Item("6", caption="last"),
    ]
    assert "line 5: not UTF-8: byte 0xff" in problems(found)[0]


def test_mistakes_are_one_line(tmp_path):
    draw(tmp_path / "a.jpg", 0)
    (tmp_path / "utf16.txt").write_text("a.jpg", encoding="utf-16")
    for make, named in (
        (lambda: photos(tmp_path / "a.jpg"), "--images.*one photo"),
        (lambda: photos(tmp_path / "missing"), "--images.*No such file"),
        (lambda: photos(tmp_path / "utf16.txt"), "--images.*UTF-16"),
        (lambda: captions(tmp_path), "--captions.*directory"),
        (lambda: captions(tmp_path / "missing"), "--captions.*No such file"),
    ):
        with pytest.raises(UserError, match=named):
            make()
