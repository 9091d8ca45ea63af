"""`check` end to end: what is planted is in the text, the JSON file and the page."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.pages.test_contact_sheet import EVIL, read
from vse_tf import check
from vse_tf.config import ShapesSettings
from vse_tf.data.shapes import read_shapes
from vse_tf.errors import UserError


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A table of drawn scenes: an equal file, a mirrored copy, a damaged image and an empty caption among them."""
    monkeypatch.setenv("VSE_TF_CACHE", str(tmp_path / "cache"))
    split = read_shapes(ShapesSettings(train_scenes=24, gallery_scenes=4, size=64)).splits["train"]
    pixels = split.images.load(np.arange(24))
    lines = ["image,caption,split"]
    (tmp_path / "photos").mkdir()
    for row, record in enumerate(split.records[:20]):
        Image.fromarray(pixels[row]).save(tmp_path / "photos" / f"{row}.png")
        lines += [f'{row}.png,"{caption}",{"train" if row < 16 else "val"}' for caption in record.captions[:2]]
    (tmp_path / "photos" / "equal.png").write_bytes((tmp_path / "photos" / "3.png").read_bytes())
    Image.fromarray(pixels[5][:, ::-1]).save(tmp_path / "photos" / "mirror.jpg", quality=70)
    # Its header can be read.
    (tmp_path / "photos" / "cut.png").write_bytes((tmp_path / "photos" / "4.png").read_bytes()[:300])
    lines += ["equal.png,one more,val", f"mirror.jpg,{EVIL.replace(',', '').replace(chr(34), '')},val"]
    lines += ["cut.png,damaged,val", "1.png,,train"]
    (tmp_path / "captions.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_what_is_planted_is_found(photos, capsys):
    argv = ["--data.annotations", str(photos / "captions.csv"), "--data.images", str(photos / "photos")]
    check.main([*argv, "--output", str(photos / "x.json"), "--page", str(photos / "x.html")])
    printed = capsys.readouterr().out
    found = json.loads((photos / "x.json").read_text())
    assert found["splits"]["train"]["images"] == 16
    assert found["splits"]["val"]["images"] == 6
    assert found["problems"] == {"undecodable image": 1, "empty caption": 1}
    assert found["equal_files"] == [[["train", "3.png"], ["val", "equal.png"]]]
    assert [(pair["images"], pair["mirrored"]) for pair in found["near_duplicates"]] == [
        (["5.png", "mirror.jpg"], True)
    ]
    assert "unlikely_captions" not in found
    for wanted in (
        "train: 16 images, 32 captions; captions per image 2 to 2",
        "problems: 2",
        "equal files in different splits: 1\n  train 3.png = val equal.png",
        "near-duplicates in different splits: 1\n  train 5.png ~ val mirror.jpg, mirrored",
    ):
        assert wanted in printed
    page = (photos / "x.html").read_text()
    shown = read(page)
    assert not {"script", "iframe", "link"} & set(shown.tags)
    assert not shown.handlers
    assert page.count('<img alt="') == 2


def test_a_run_names_the_captions_unlike_their_image(tiny_run, tmp_path, capsys):
    check.main(["--run", str(tiny_run), "--output", str(tmp_path / "x.json"), "--page", str(tmp_path / "x.html")])
    found = json.loads((tmp_path / "x.json").read_text())
    # The tiny model has hardly learned anything.
    assert found["unlikely_captions"]
    assert all(one["nearer"] > 4 for one in found["unlikely_captions"])
    assert "so many indicate a weak model" in capsys.readouterr().out
    page = (tmp_path / "x.html").read_text()
    assert found["unlikely_captions"][0]["caption"] in page


def test_wrong_options_are_one_line(tmp_path):
    with pytest.raises(UserError, match="--page_count: 0 is not above 0"):
        check.main(["--page_count", "0"])
    with pytest.raises(UserError, match="no run here"):
        check.main(["--run", str(tmp_path)])
