"""An image folder that has none of the images: one line that says so, and where they are."""

import json
import re

import pytest
from PIL import Image

from vse_tf.config import DataSettings
from vse_tf.data.sources import read
from vse_tf.errors import UserError

NAMES = [f"{number}.jpg" for number in range(30)]


def table(folder, names=NAMES):
    path = folder / "captions.csv"
    path.write_text("image,caption\n" + "".join(f"{name},a photo of {name}\n" for name in names))
    return {"source": "table", "annotations": str(path)}


def karpathy(folder, names=NAMES):
    path = folder / "dataset.json"
    images = [{"filename": name, "split": "train", "sentences": [{"raw": f"a photo of {name}"}]} for name in names]
    path.write_text(json.dumps({"images": images}))
    return {"source": "karpathy", "annotations": str(path)}


def coco(folder, names=NAMES):
    path = folder / "captions_train.json"
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    captions = [
        {"id": number, "image_id": number, "caption": f"a photo of {name}"} for number, name in enumerate(names)
    ]
    path.write_text(json.dumps({"images": images, "annotations": captions}))
    return {"source": "coco", "annotations": str(path)}


@pytest.fixture
def place(tmp_path):
    """A folder `photos` with the images next to an empty one and one with other images."""
    for name in ("photos", "empty", "other"):
        (tmp_path / name).mkdir()
    for name in NAMES:
        (tmp_path / "photos" / name).write_bytes(b"")
    Image.new("RGB", (8, 8)).save(tmp_path / "other" / "x.jpg")
    return tmp_path


def message(place, images, source, names=NAMES, on_bad="fail"):
    settings = {"images": str(place / images), "cache_dir": str(place / "cache"), "on_bad": on_bad}
    with pytest.raises(UserError) as caught:
        read(DataSettings(**source(place, names), **settings), progress=False)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(place.resolve()), "PLACE").replace(str(place), "PLACE")


@pytest.mark.parametrize("source", [table, karpathy, coco])
@pytest.mark.parametrize("on_bad", ["fail", "skip"])
def test_the_folder_next_to_it_is_named(place, source, on_bad):
    found = message(place, "empty", source, on_bad=on_bad)
    assert "none of its 30 images is in PLACE/empty, which is empty; they are in PLACE/photos: name it with" in found
    assert found.endswith("--data.images PLACE/photos")


def test_folders_below_and_above_are_named(place):
    assert "is in PLACE; they are in PLACE/photos:" in message(place, ".", table)
    assert "they are in PLACE:" in message(place, "photos", table, [f"photos/{name}" for name in NAMES])


def test_names_that_differ_are_shown(place):
    found = message(place, "photos", table, [f"images/{name}" for name in NAMES])
    assert "that folder has '0.jpg' where the file says 'images/0.jpg': write the paths" in found
    found = message(place, "photos", table, [name.removesuffix(".jpg") for name in NAMES])
    assert "the first is '0' (there is '0.jpg'): write the names in the file as they are" in found
    found = message(place, "other", table, [f"{name}.png" for name in NAMES])
    assert found.endswith("the first is '0.jpg.png'; name the folder that has them with --data.images")


def test_places_outside_are_not_looked_at(place):
    found = message(place, "empty", table, [f"sub/../../photos/{name}" for name in NAMES])
    assert "they are in" not in found


def test_many_problems_are_counted_by_kind_and_listed(place):
    names = [*(f"x{name}" for name in NAMES[:20]), *NAMES]
    found = message(place, "photos", table, names)
    assert "50 problems in the data (30 × undecodable image, 20 × missing image), for example " in found
    assert found.count(" | ") == 5
    assert "line 2: missing image: 'x0.jpg'" in found
    assert "undecodable image: PLACE/photos/0.jpg: empty file" in found
    listed = re.search(r"all of them are in (PLACE/cache/problems/captions\.csv-\w+\.txt); fix them, or skip", found)
    lines = (place / listed[1].removeprefix("PLACE/")).read_text().splitlines()
    assert len(lines) == 50
    assert lines[0].endswith("captions.csv: line 2: missing image: 'x0.jpg'")


def test_few_problems_are_all_in_the_message(place):
    found = message(place, "photos", table, NAMES[:5])
    assert found.startswith("5 problems in the data: PLACE/captions.csv: line 2: undecodable image")
    assert not (place / "cache" / "problems").exists()


def test_a_list_that_cannot_be_written_is_left_out(place):
    (place / "cache").mkdir()
    (place / "cache" / "problems").write_text("")
    assert " | …; fix them, or skip them" in message(place, "photos", table)
