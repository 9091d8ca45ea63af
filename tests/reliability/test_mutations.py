"""Damaged annotation files and images: a collection or one `UserError`, pixels or a refusal; nothing else ever."""

import copy
import faulthandler
import json
import random
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.reliability.mutations import PATIENCE, fuzz
from vse_tf.config import DataSettings
from vse_tf.data.records import Collection
from vse_tf.data.sources import read
from vse_tf.errors import UserError

MANY = [200, pytest.param(10_000, marks=pytest.mark.evidence)]
CAPTIONS = ["a cat", "ein Hund, groß", '"quoted"', "two\nlines"]


def karpathy():
    images = [
        {
            "filename": f"{i}.png",
            "filepath": "",
            "imgid": i,
            "split": ("train", "restval", "val", "test")[i],
            "sentences": [{"raw": text, "sentid": 4 * i + n} for n, text in enumerate(CAPTIONS)],
        }
        for i in range(4)
    ]
    return {"dataset": "tiny", "images": images}


def coco():
    images = [{"id": 10 + i, "file_name": f"{i}.png"} for i in range(4)]
    annotations = [
        {"id": 4 * i + n, "image_id": 10 + i, "caption": t} for i in range(4) for n, t in enumerate(CAPTIONS)
    ]
    return {"images": images, "annotations": annotations, "info": {}}


def table():
    return [{"image": f"{i}.png", "caption": t, "split": ("train", "val")[i % 2]} for i in range(4) for t in CAPTIONS]


def csv_text(rows):
    quoted = [[str(value).replace('"', '""') for value in row.values()] for row in rows]
    return "image,caption,split\n" + "".join(",".join(f'"{value}"' for value in row) + "\n" for row in quoted)


FORMATS = {
    "karpathy": (karpathy, "karpathy", "dataset.json", json.dumps),
    "coco": (coco, "coco", "captions.json", json.dumps),
    "jsonl": (table, "table", "captions.jsonl", lambda rows: "\n".join(map(json.dumps, rows))),
    "csv": (table, "table", "captions.csv", csv_text),
}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["../x.png", "/etc/passwd", "0.png", "train", "val", "\0", "\ud800", " ", 10**400, -0.0, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PIECES = [
    b'"',
    b"'",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"\\u",
    b"\\ud800",
]
PIECES += [
    b"NaN",
    b"1e999",
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 3000,
    b"\xef\xbb\xbf",
    b"null",
    b"\xe2\x80\xa8",
    b'""""',
]


@st.composite
def broken_values(draw, sample):
    """The sample with some of its values replaced, removed or repeated."""
    data = copy.deepcopy(sample)
    for _ in range(draw(st.integers(1, 4))):
        place = data
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], (dict, list)) and place[key] and draw(st.integers(0, 3)):
                place = place[key]
                continue
            change = draw(st.sampled_from(["replace", "remove", "repeat"]))
            if change == "replace":
                place[key] = draw(VALUES)
            elif change == "remove":
                del place[key]
            elif isinstance(place, list):
                place.insert(key, copy.deepcopy(place[key]))
            else:
                place[draw(st.text(max_size=5))] = copy.deepcopy(place[key])
            break
    return data


@st.composite
def broken_bytes(draw, contents):
    """The contents with bytes changed, cut out, repeated or put in."""
    data = bytearray(contents)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.sampled_from([0, 1, 2, 30]))
        piece = draw(st.binary(max_size=3) | st.sampled_from(PIECES) | st.just(bytes(data[at : at + 40])))
        data[at : at + length] = piece
    return bytes(data)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(4):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("examples", MANY)
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_annotations_are_read_or_refused_in_one_line(name, examples, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("VSE_TF_CACHE", str(tmp_path / "cache"))
    make, source, file, dump = FORMATS[name]
    sample = make()
    path = tmp_path / file
    outcomes = {"read": 0, "refused": 0}

    def check(contents, on_bad):
        path.write_bytes(contents)
        data = DataSettings(source=source, annotations=str(path), images=str(photos), on_bad=on_bad, verify="none")
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        try:
            found = read(data, progress=False)
        except UserError as error:
            assert str(error).strip()
            outcomes["refused"] += 1
        else:
            assert isinstance(found, Collection)
            for split in found.splits.values():
                for row, record in enumerate(split.records):
                    assert record.row == row
                    assert record.captions
                    assert all(caption.encode() for caption in record.captions)
                    assert str(photos) in record.image
            outcomes["read"] += 1
        finally:
            faulthandler.cancel_dump_traceback_later()

    whole = dump(sample).encode()
    rows = broken_values(sample).map(lambda data: _dumped(dump, data))
    quick = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.large_base_example,
        ],
    )
    contents = broken_bytes(whole) | rows
    quick(given(contents, st.sampled_from(["skip", "fail"]))(check))()
    print(f"{name}: {outcomes}")
    assert min(outcomes.values()) > examples // 100


def _dumped(dump, data):
    try:
        return dump(data).encode("utf-8", "surrogatepass")
    except (AttributeError, TypeError):
        # A row that is no longer an object has no columns.
        return json.dumps(data).encode()


def test_damaged_images_are_decoded_or_refused():
    found = fuzz(300, seed=random.SystemRandom().randrange(10**6))
    print(found)
    assert min(found["decoded"], found["refused"]) > 20


@pytest.mark.evidence
def test_ten_thousand_damaged_images_cost_no_memory():
    # A process of its own: its memory is known.
    command = [
        sys.executable,
        "-m",
        "tests.reliability.mutations",
        "10000",
        str(random.SystemRandom().randrange(10**6)),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    print(found)
    assert found["grown_mb"] < 100
