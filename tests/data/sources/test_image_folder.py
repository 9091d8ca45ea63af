import os
import unicodedata
from pathlib import Path

import pytest
from source_files import make_images

from vse_tf.data.sources.image_folder import ImageFolder, ImageFolders
from vse_tf.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    make_images(tmp_path, "outside.jpg", "images2/near.jpg")
    return make_images(tmp_path / "images", "a.jpg", "sub/b.jpg", "sub/deep/Ünï.jpg")


def test_names_are_found_however_they_are_written(images):
    folder = ImageFolder(images)
    real = os.path.realpath(images)
    for name in ("a.jpg", "./a.jpg", "sub/../a.jpg", "sub//..//a.jpg", str(images / "a.jpg"), "../images/a.jpg"):
        assert folder.find(name) == f"{real}/a.jpg"
    assert folder.find("sub/deep/Ünï.jpg") == f"{real}/sub/deep/Ünï.jpg"
    assert folder.relative(folder.find("sub/./b.jpg")) == "sub/b.jpg"


@pytest.mark.parametrize(
    "name",
    [
        "../outside.jpg",
        "sub/../../outside.jpg",
        "/etc/hostname",
        "../images2/near.jpg",
        "../missing.jpg",
        "gone/../../x",
    ],
)
def test_paths_that_lead_outside(images, name):
    with pytest.raises(ValueError, match=r"^path outside the image folder: "):
        ImageFolder(images).find(name)


def test_links_on_the_users_disk_are_followed(images, tmp_path):
    (images / "inner.jpg").symlink_to("sub/b.jpg")
    (images / "outer.jpg").symlink_to(tmp_path / "outside.jpg")
    (images / "folder").symlink_to(tmp_path / "images2")
    (tmp_path / "door").symlink_to(images)
    for root in (images, tmp_path / "door"):
        folder = ImageFolder(root)
        assert folder.find("inner.jpg") == folder.find("sub/b.jpg")
        for name in ("outer.jpg", "folder/near.jpg", str(root / "outer.jpg"), f"../{root.name}/folder/near.jpg"):
            found = folder.find(name)
            assert Path(found).read_bytes()
            # The same on every machine, wherever the link leads.
            assert folder.relative(found) == "/".join(Path(found).parts[-1 if "outer" in name else -2 :])


def test_links_to_nothing_or_to_devices(images):
    links = {"broken.jpg": "nothing.jpg", "loop.jpg": "loop.jpg", "device.jpg": "/dev/zero", "folder.jpg": "sub"}
    for name, target in links.items():
        (images / name).symlink_to(target)
    folder = ImageFolder(images)
    for name in ("broken.jpg", "loop.jpg"):
        with pytest.raises(ValueError, match=r"^missing image: "):
            folder.find(name)
    for name in ("device.jpg", "folder.jpg"):
        with pytest.raises(ValueError, match=r"^bad image path: .* is not a file"):
            folder.find(name)


def test_dots_behind_a_link_do_not_leave_the_folder(images, tmp_path):
    make_images(tmp_path / "store" / "train", "a.jpg")
    make_images(tmp_path / "store", "secret.jpg")
    (images / "train").symlink_to(tmp_path / "store" / "train")
    folder = ImageFolder(images)
    assert folder.find("train/a.jpg") == f"{os.path.realpath(images)}/train/a.jpg"
    with pytest.raises(ValueError, match="missing image"):
        folder.find("train/../secret.jpg")
    with pytest.raises(ValueError, match="path outside the image folder"):
        folder.find("train/../../outside.jpg")


def test_an_absolute_path_outside_names_the_option(images, tmp_path):
    with pytest.raises(ValueError, match=r"is not in .*; name the folder that it is in with --data\.images"):
        ImageFolder(images).find(str(tmp_path / "outside.jpg"))
    with pytest.raises(ValueError, match=r"is on another machine; .*--data\.images"):
        ImageFolder(images).find("C:\\images\\a.jpg")


def test_names_in_the_other_unicode_form_are_found(images):
    folder = ImageFolder(images)
    for form in ("NFC", "NFD"):
        assert folder.find(unicodedata.normalize(form, "sub/deep/Ünï.jpg")).endswith("/sub/deep/Ünï.jpg")
    make_images(images, unicodedata.normalize("NFD", "großé/é.jpg"))
    found = ImageFolder(images).find(unicodedata.normalize("NFC", "großé/é.jpg"))
    assert Path(found).is_file()


def test_backslashes_are_read_as_slashes(images):
    folder = ImageFolder(images)
    assert folder.find("sub\\b.jpg") == folder.find("sub/b.jpg")
    with pytest.raises(ValueError, match=r"^path outside the image folder: '..\\\\..\\\\x.jpg'"):
        folder.find("..\\..\\x.jpg")
    make_images(images, "sub\\b.jpg")
    assert ImageFolder(images).find("sub\\b.jpg").endswith("/sub\\b.jpg")


@pytest.mark.parametrize(("name", "meant"), [("A.JPG", "a.jpg"), ("a", "a.jpg"), ("sub/B", "b.jpg")])
def test_a_missing_image_names_the_one_that_may_be_meant(images, name, meant):
    with pytest.raises(ValueError, match=rf"^missing image: '{name}' \(there is '{meant}'\)"):
        ImageFolder(images).find(name)


def test_several_folders_are_one(tmp_path):
    make_images(tmp_path / "train2014", "a.jpg", "both.jpg")
    make_images(tmp_path / "val2014", "b.jpg", "both.jpg")
    make_images(tmp_path / "other", "train2014/c.jpg")
    folders = ImageFolders([tmp_path / name for name in ("train2014", "val2014", "other")])
    for subfolder, name in (("train2014", "a.jpg"), ("val2014", "both.jpg"), ("train2014", "c.jpg"), ("", "b.jpg")):
        found = folders.find(subfolder, name)
        assert found.endswith(os.path.join(subfolder, name))  # noqa: PTH118
    with pytest.raises(ValueError, match=r"^ambiguous image: 'both.jpg' is at .*train2014/both.jpg and at .*val2014"):
        folders.find("", "both.jpg")
    with pytest.raises(ValueError, match=r"^missing image: "):
        folders.find("", "gone.jpg")
    with pytest.raises(ValueError, match=r"^path outside the image folder: "):
        folders.find("", "../val2014/../x.jpg")


@pytest.mark.parametrize("name", ["gone.jpg", "sub/gone.jpg", "gone/a.jpg", "a.jpg/b.jpg", "x" * 5000])
def test_missing(images, name):
    with pytest.raises(ValueError, match=r"^missing image: "):
        ImageFolder(images).find(name)


@pytest.mark.parametrize("name", ["", "  ", ".", "..", "sub", "sub/", "a\0.jpg", "\ud800.jpg"])
def test_what_is_no_image_path(images, name):
    with pytest.raises(ValueError, match=r"^bad image path: ") as info:
        ImageFolder(images).find(name)
    str(info.value).encode()


def test_each_folder_is_listed_once_and_no_plain_file_asked_for(images, monkeypatch):
    folder = ImageFolder(images)
    listed: list[str] = []
    asked: list[str] = []
    scandir, stat = os.scandir, os.stat

    def spy_scandir(path):
        listed.append(path)
        return scandir(path)

    def spy_stat(path, **options):
        asked.append(path)
        return stat(path, **options)

    monkeypatch.setattr(os, "scandir", spy_scandir)
    monkeypatch.setattr(os, "stat", spy_stat)
    for _ in range(3):
        for name in ("a.jpg", "sub/b.jpg"):
            folder.find(name)
    assert sorted(listed) == sorted(os.path.realpath(p) for p in (images, images / "sub"))
    assert asked == []


def test_a_name_that_the_listing_spells_otherwise_is_asked_for(images, monkeypatch):
    folder = ImageFolder(images)
    monkeypatch.setattr(folder, "_listing", lambda _: {})
    assert folder.find("a.jpg") == os.path.realpath(images / "a.jpg")


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"no such folder; .*--data\.images"):
        ImageFolder(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not a folder"):
        ImageFolder(tmp_path / "file")
