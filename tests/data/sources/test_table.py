import csv
import gzip
import io
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_files import captions, make_images, problems, read_quietly, settings_for

from vse_tf.config import TableSettings
from vse_tf.errors import UserError

FOLDER_ONCE = [HealthCheck.function_scoped_fixture]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_images(tmp_path, *(f"{name}.jpg" for name in "abcdefghij"))


def load(folder: Path, contents: str | bytes, name: str = "captions.csv", **changes: Any):
    contents = contents.encode() if isinstance(contents, str) else contents
    (folder / name).write_bytes(contents)
    return read_quietly(settings_for(folder, "table", annotations=str(folder / name), **changes))


def lines(*items: object) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


def test_rows_of_one_image_are_merged_in_order(folder):
    collection = load(
        folder,
        'caption,split,image\r\n"a ""red"", round\nball",train,b.jpg\r\ndog,val,a.jpg\r\n\r\ncat , train ,./b.jpg\r\n',
    )
    assert captions(collection) == {"train": [('a "red", round\nball', "cat")], "val": [("dog",)]}
    assert collection.splits["train"].records[0].where.endswith("captions.csv: line 2")
    assert collection.splits["val"].records[0].where.endswith("captions.csv: line 4")


def test_jsonl_takes_a_caption_or_a_list(folder):
    text = lines(
        {"image": "a.jpg", "caption": ["one", "two\u2028three"], "split": "train"},
        {"image": "b.jpg", "caption": "x", "split": "dev", "other": None},
        {"image": "a.jpg", "caption": "four", "split": "train"},
    )
    for name in ("c.jsonl", "c.ndjson", "c.json", "c.JSONL"):
        wanted = {"train": [("one", "two\u2028three", "four")], "val": [("x",)]}
        assert captions(load(folder, "\ufeff" + text, name)) == wanted


def test_byte_order_mark_other_columns_and_another_folder(folder):
    table = TableSettings(image_column="file", caption_column="text", split_column="part")
    make_images(folder / "images", "z.jpg")
    text = "\ufefffile, text ,part\nz.jpg,hello,train\n"
    collection = load(folder, text, table=table, images=str(folder / "images"))
    assert captions(collection) == {"train": [("hello",)]}
    assert Path(collection.splits["train"].images.paths[0]) == (folder / "images" / "z.jpg").resolve()


BAD_ROWS = [
    ("gone.jpg,x,train", "line 4: missing image: 'gone.jpg'"),
    ("../x.jpg,x,train", "line 4: path outside the image folder"),
    ("/etc/hostname,x,train", "line 4: path outside the image folder"),
    (",x,train", "line 4: bad image path: it is empty"),
    ("c.jpg,  ,train", "line 4: empty caption"),
    ("c.jpg,x,", "line 4: bad split name: ''"),
    ("a.jpg,two,val", "line 4: image in two splits"),
    ("c.jpg,x", "line 4: wrong number of fields: 2, the header has 3"),
    ("c.jpg,x,train,more", "line 4: wrong number of fields: 4"),
    (b"c.jpg,gr\xfcn,train", "line 4: caption unreadable: not UTF-8: byte 0xfc"),
    (b"gr\xfcn.jpg,x,train", "line 4: bad image path: not UTF-8: byte 0xfc"),
    ("text.jpg,x,train", "line 4: undecodable image"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_each_problem_of_a_csv_row(folder, row, message):
    (folder / "text.jpg").write_text("not an image at all")
    row = row.encode() if isinstance(row, str) else row
    contents = b"image,caption,split\na.jpg,one,train\nb.jpg,one,val\n" + row + b"\nd.jpg,last,train\n"
    with pytest.raises(UserError, match=re.escape(message)):
        load(folder, contents)
    collection = load(folder, contents, on_bad="skip")
    assert captions(collection) == {"train": [("one",), ("last",)], "val": [("one",)]}
    assert message in str(collection.skipped[0])


WANTED = {"train": [("a man, a dog", "x")], "val": [("y",)]}
SAME_TABLES = {
    "semicolons": "image;caption;split\na.jpg;a man, a dog;train\na.jpg;x;train\nb.jpg;y;val\n",
    "Excel's line": "sep=;\r\nimage;caption;split\r\na.jpg;a man, a dog;train\r\na.jpg;x;train\r\nb.jpg;y;val\r\n",
    "tabs": "image\tcaption\tsplit\na.jpg\ta man, a dog\ttrain\na.jpg\tx\ttrain\nb.jpg\ty\tval\n",
    "bars": "image|caption|split\na.jpg|a man, a dog|train\na.jpg|x|train\nb.jpg|y|val\n",
    "bars and blanks": "image| caption| split\na.jpg| a man, a dog| train\na.jpg| x| train\nb.jpg| y| val\n",
    "commas and blanks": 'image, caption, split\na.jpg, "a man, a dog", train\na.jpg, x, train\nb.jpg, y, val\n',
    "letter case": 'Image,Caption,Split\na.jpg,"a man, a dog",Train\na.jpg,x,TRAIN\nb.jpg,y,Dev\n',
    "no header": 'a.jpg,"a man, a dog",train\na.jpg,x,train\nb.jpg,y,val\n',
    "no header, split first": "a.jpg\ttrain\ta man, a dog\na.jpg\ttrain\tx\nb.jpg\tval\ty\n",
    "an array": json.dumps(
        [
            {"image": "a.jpg", "caption": ["a man, a dog", "x"], "split": "train"},
            {"image": "b.jpg", "caption": "y", "split": "val"},
        ],
        indent=1,
    ),
    "backslashes": 'image,caption,split\n.\\a.jpg,"a man, a dog",train\na.jpg,x,train\n.\\b.jpg,y,val\n',
}


@pytest.mark.parametrize("name", SAME_TABLES)
def test_tables_as_people_have_them(folder, name):
    suffix = "json" if name == "an array" else "csv"
    assert captions(load(folder, SAME_TABLES[name], f"c.{suffix}")) == WANTED
    assert captions(load(folder, SAME_TABLES[name], "c.txt")) == WANTED
    assert captions(load(folder, SAME_TABLES[name].encode("utf-16"), f"c.{suffix}")) == WANTED
    assert captions(load(folder, SAME_TABLES[name].encode("utf-16-le"), f"c.{suffix}")) == WANTED
    assert captions(load(folder, gzip.compress(SAME_TABLES[name].encode()), f"c.{suffix}.gz")) == WANTED


ALL_TRAIN: dict[str, Any] = {"val_fraction": 0.0, "test_fraction": 0.0}


def test_flickr8k_token_file(folder):
    text = 'a.jpg#0\t"A man , a dog\na.jpg#1\tA man\na.jpg#2\tA man\nb.jpg#0\tx " y\n'
    collection = load(folder, text, "Flickr8k.token.txt", **ALL_TRAIN)
    assert captions(collection) == {"train": [('"A man , a dog', "A man", "A man"), ('x " y',)]}
    assert collection.notes == ()
    collection = load(folder, text + "b.jpg#0\tz\ngone.jpg#0\tx\ngone.jpg#1\tx\n", on_bad="skip", **ALL_TRAIN)
    assert captions(collection)["train"][1] == ('x " y', "z")
    assert problems(collection) == ["missing image", "repeated caption number"]


def test_flickr30k_results_file(folder):
    text = (
        "image_name| comment_number| comment\na.jpg| 0| A man , a dog .\n"
        'a.jpg| 1| "Hi" he said .\nb.jpg| 4   A dog runs .\nc.jpg| 0| "Quotes\n'
    )
    with pytest.raises(UserError, match="line 4: wrong number of fields: 2, the header has 3"):
        load(folder, text, "results.csv")
    collection = load(folder, text, "results.csv", on_bad="skip", **ALL_TRAIN)
    assert captions(collection) == {"train": [("A man , a dog .", '"Hi" he said .'), ('"Quotes',)]}
    headless = text.partition("\n")[2]
    collection = load(folder, headless, "results.csv", on_bad="skip", **ALL_TRAIN)
    assert captions(collection) == {"train": [("A man , a dog .", '"Hi" he said .'), ('"Quotes',)]}
    assert "line 3: wrong number of fields: 2, the first line has 3" in str(collection.skipped[0])


def test_repeated_captions_are_read_once_and_counted(folder):
    collection = load(folder, "image,caption\na.jpg,x\na.jpg,y\na.jpg, x \na.jpg,x\nb.jpg,x\n", **ALL_TRAIN)
    assert captions(collection) == {"train": [("x", "y"), ("x",)]}
    note = "2 captions repeat others of their image and count once; the first is at "
    assert collection.notes == (f"{note}{folder}/c.csv: line 4".replace("c.csv", "captions.csv"),)


SWALLOWED = [
    ('image,caption\na.jpg,x\nb.jpg,"red ball\nc.jpg,y\nd.jpg,5"\ne.jpg,z\n', 3, "c.jpg,y"),
    ('image,caption\na.jpg,x\nb.jpg,"red ball\nd.jpg,5"\ne.jpg,z\n', 3, "d.jpg,5"),
    ('image,caption,split\na.jpg,"red,train\nb.jpg,blue 5",train\n', 2, "b.jpg,blue 5"),
    ('caption,image\n"red ball,a.jpg\na dog 5",b.jpg\n', 2, "red ball,a.jpg"),
    ('id;image;caption\n1;a.jpg;"a\nb"\n2;b.jpg;"x\n3;c.jpg;y\n4;d.jpg;5"\n', 4, "3;c.jpg;y"),
]


@pytest.mark.parametrize("on_bad", ["fail", "skip"])
@pytest.mark.parametrize(("text", "line", "row"), SWALLOWED)
def test_a_stray_quotation_mark_swallows_no_rows(folder, text, line, row, on_bad):
    with pytest.raises(UserError, match=rf"line {line}: stray quotation mark: .*'{row}'") as error:
        load(folder, text, on_bad=on_bad)
    assert "\n" not in str(error.value)


def test_rows_of_names_without_suffix_are_not_swallowed(folder):
    make_images(folder, "one", "two", "three")
    with pytest.raises(UserError, match="line 3: stray quotation mark"):
        load(folder, 'image,caption\none,x\ntwo,"red ball\none,y\nthree,5"\n')


@pytest.mark.parametrize("caption", ["two\nlines", "one, two\nthree, four\nfive, six", 'a "b", c\nd', "\n\nx,y\n"])
def test_a_caption_of_several_lines_is_read(folder, caption):
    collection = load(folder, csv_text([("a.jpg", caption), ("b.jpg", "x")]), **ALL_TRAIN)
    assert captions(collection) == {"train": [(caption.strip(),), ("x",)]}


def test_an_unclosed_mark_is_named_where_it_opens(folder):
    text = "image,caption\n" + "".join(f'{name}.jpg,"x"\n' for name in "abc") + 'd.jpg,"y\n' + "e.jpg,z\n" * 500
    with pytest.raises(UserError, match=r"line 5: broken CSV: .*noticed in line 50\d"):
        load(folder, text)


BAD_LINES = [
    ("{", "line 2: broken JSON"),
    ('{"image": "c.jpg", "caption": "gr\udcfcn"}', "line 2: broken JSON: not UTF-8: byte 0xfc"),
    ("[1]", "line 2: wrong type: the line is a list, not an object"),
    ('{"image": 5, "caption": "x"}', "line 2: wrong type: image is a number"),
    ('{"image": "c.jpg"}', "line 2: missing key: caption; there are: ['image']"),
    ('{"image": "c.jpg", "caption": {}}', "line 2: wrong type: the caption is an object"),
    ('{"image": "c.jpg", "caption": []}', "line 2: image without captions"),
    ('{"image": "c.jpg", "caption": ["x", 7]}', "line 2, caption 2: wrong type: the caption is a number"),
    ('{"image": "c.jpg", "caption": "\\ud800"}', "line 2: caption unreadable: not Unicode"),
    ("1" * 5000, "line 2: broken JSON"),
    ("[" * 100_000, "line 2: broken JSON"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[message for _, message in BAD_LINES])
def test_each_problem_of_a_json_line(folder, line, message):
    good = '{"image": "a.jpg", "caption": "one"}'
    contents = f"{good}\n{line}\n".encode("utf-8", "surrogateescape")
    fractions = {"val_fraction": 0.0, "test_fraction": 0.0}
    if "not UTF-8" in message:
        message = "line 2: caption unreadable: not UTF-8: byte 0xfc"
    with pytest.raises(UserError, match=re.escape(message)):
        load(folder, contents, "c.jsonl", **fractions)
    collection = load(folder, contents, "c.jsonl", on_bad="skip", **fractions)
    assert captions(collection)["train"][0] == ("one",)
    assert message in str(collection.skipped[0])


def test_a_split_in_some_lines_only_is_a_problem_of_the_others(folder):
    text = lines(
        {"image": "a.jpg", "caption": "x", "split": "train"},
        {"image": "b.jpg", "caption": "x"},
        {"image": "c.jpg", "caption": "x", "split": 1},
    )
    with pytest.raises(UserError, match=r"line 2: missing key: split, which other.*line 3: wrong type: split"):
        load(folder, text, "c.jsonl")


@pytest.mark.parametrize("on_bad", ["fail", "skip"])
@pytest.mark.parametrize(
    ("contents", "name", "message"),
    [
        ("", "c.csv", "the file is empty"),
        ("\ufeff \n", "c.csv", "the file is empty"),
        (
            "file,text\na.jpg,x\n",
            "c.csv",
            "no column 'image' and 'caption'; there are: 'file', 'text'.*table.image_column",
        ),
        ("image,caption,caption\na.jpg,x,y\n", "c.csv", "the column 'caption' occurs more than once"),
        ('image,caption\na.jpg,"x\nb.jpg,y\n', "c.csv", "line 2: broken CSV: .*quotation mark"),
        ('image,caption\na.jpg,"x"y\n', "c.csv", "line 2: broken CSV"),
        ("image,caption\n", "c.csv", "no usable record"),
        ('{"file": "a.jpg", "caption": "x"}', "c.jsonl", "no key 'image'; there are: 'file', 'caption'"),
        ("image,caption,split\na.jpg,x,val\nb.jpg,x,dev\n", "c.csv", "'val' and 'dev' both mean 'val'"),
        (
            "picture;words;part\na.jpg;x;y\n",
            "c.csv",
            "no column .*'picture', 'words', 'part' .separated by semicolons.;",
        ),
        (
            "a.jpg,red, round\nb.jpg,x\n",
            "c.csv",
            "'a.jpg', 'red', 'round'; that looks like a row: put a line image,caption above",
        ),
        ("no separator at all\n", "c.csv", "no column 'image' and 'caption'; there are: 'no separator at all'; name"),
        ('{\n"images": [],\n"annotations": []}', "c.json", "kind coco; read it with --data.source coco"),
        ('{"images": []}', "c.json", "kind karpathy; read it with --data.source karpathy"),
        ('{\n"a.jpg": ["x"]\n}', "c.json", "one JSON object with the keys 'a.jpg'; a table is an array of objects"),
        ('{"a.jpg": ["x"]}', "c.json", "there are: 'a.jpg'; one JSON object per image and caption is expected"),
        ('[{"image": "a.jpg", "caption": "x"},\n{"image"', "c.json", "line 2: broken JSON"),
        ('[{"image": "a.jpg", "caption": "x"}\n{"image": 1}]', "c.json", "line 2: broken JSON: a comma or ]"),
        ("[]", "c.json", "no usable record"),
    ],
)
def test_a_file_that_lacks_what_is_needed_is_always_an_error(folder, contents, name, message, on_bad):
    with pytest.raises(UserError, match=message):
        load(folder, contents, name, on_bad=on_bad)


def test_a_split_column_that_was_asked_for_must_be_there(folder):
    with pytest.raises(UserError, match=r"no column 'part'; .*--data\.table\.split_column"):
        load(folder, "image,caption\na.jpg,x\n", table=TableSettings(split_column="part"))


def test_a_missing_image_is_one_problem_however_many_rows_it_has(folder):
    text = "image,caption,split\ngone.jpg,x,train\ngone.jpg,y,train\na.jpg,z,train\n"
    assert problems(load(folder, text, on_bad="skip")) == ["missing image"]


def test_missing_settings(folder):
    with pytest.raises(UserError, match=r"--data\.annotations"):
        read_quietly(settings_for(folder, "table"))
    with pytest.raises(UserError, match=r"No such file or directory; .*--data\.annotations"):
        read_quietly(settings_for(folder, "table", annotations=str(folder / "gone.csv")))
    with pytest.raises(UserError, match=r"no such folder; .*--data\.images"):
        load(folder, "image,caption\na.jpg,x\n", images=str(folder / "gone"))


def split_of(collection) -> dict[str, str]:
    return {Path(r.image).name: name for name, split in collection.splits.items() for r in split.records}


ROWS = [(f"{name}.jpg", f"{name}{number}") for name in "abcdefghij" for number in range(3)]


def csv_text(rows) -> str:
    file = io.StringIO()
    csv.writer(file).writerows([("image", "caption"), *rows])
    return file.getvalue()


@settings(max_examples=20, suppress_health_check=FOLDER_ONCE, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_drawn_split_goes_by_image_and_not_by_row_or_order(folder, rng: random.Random):
    changes: dict[str, Any] = {"val_fraction": 0.3, "test_fraction": 0.2, "verify": "none"}
    first = load(folder, csv_text(ROWS), **changes)
    assert {name: len(split) for name, split in first.splits.items()} == {"train": 5, "val": 3, "test": 2}
    assert all(len(record.captions) == 3 for split in first.splits.values() for record in split.records)
    rows = rng.sample(ROWS, len(ROWS))
    # However the path is written, too.
    rows = [(rng.choice([image, f"./{image}", str(folder / image)]), caption) for image, caption in rows]
    assert split_of(load(folder, csv_text(rows), **changes)) == split_of(first)


def test_a_lost_photo_moves_no_other_to_another_split(folder):
    before = split_of(load(folder, csv_text(ROWS), val_fraction=0.3, on_bad="skip"))
    for name in ("a.jpg", "h.jpg"):
        (folder / name).unlink()
    after = split_of(load(folder, csv_text(ROWS), val_fraction=0.3, on_bad="skip"))
    assert after == {name: split for name, split in before.items() if name not in ("a.jpg", "h.jpg")}


CAPTIONS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(str.strip), min_size=1, max_size=6
)


@settings(max_examples=150, suppress_health_check=FOLDER_ONCE, deadline=None)
@given(CAPTIONS)
def test_any_captions_come_back_from_csv_and_jsonl(folder, texts):
    wanted = list(dict.fromkeys(text.strip() for text in texts))
    changes: dict[str, Any] = {"verify": "none", "val_fraction": 0.0, "test_fraction": 0.0, "on_bad": "skip"}
    rows = [("a.jpg", text) for text in texts]
    one_line_each = lines(*({"image": image, "caption": text} for image, text in rows))
    one_list = lines({"image": "a.jpg", "caption": texts})
    raw = json.dumps({"image": "a.jpg", "caption": texts}, ensure_ascii=False)
    for contents, name in (
        (csv_text(rows), "c.csv"),
        (one_line_each, "c.jsonl"),
        (one_list, "c.jsonl"),
        (raw, "c.jsonl"),
    ):
        collection = load(folder, contents, name, **changes)
        assert captions(collection) == {"train": [tuple(wanted)]}
        repeated = len(texts) - len(wanted)
        assert [int(note.split(maxsplit=1)[0]) for note in collection.notes] == ([repeated] if repeated else [])


@settings(max_examples=100, suppress_health_check=FOLDER_ONCE, deadline=None)
@given(st.sampled_from(["c.csv", "c.jsonl"]), st.integers(0, 120), st.integers(0, 20), st.binary(max_size=6))
def test_any_damage_gives_records_or_a_clear_error(folder, name, start, length, insert):
    undamaged = csv_text(ROWS[:6]) if name == "c.csv" else lines(*({"image": i, "caption": c} for i, c in ROWS[:4]))
    contents = undamaged.encode()
    try:
        collection = load(folder, contents[:start] + insert + contents[start + length :], name, verify="none")
    except UserError as error:
        str(error).encode()
    else:
        assert collection.splits


def test_ten_thousand_words_are_a_caption(folder):
    text = "word " * 10_000
    collection = load(folder, csv_text([("a.jpg", text)]))
    assert captions(collection) == {"train": [(text.strip(),)]}


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("length", [100_001, 131_072, 1_000_000])
def test_a_caption_that_is_too_long_is_called_so(tmp_path, suffix, length):
    rows = [("a.jpg", "short"), ("a.jpg", "x" * length), ("b.jpg", "y" * 100_000)]
    make_images(tmp_path, "a.jpg", "b.jpg")
    path = tmp_path / f"c.{suffix}"
    if suffix == "csv":
        path.write_text("image,caption\n" + "".join(f"{image},{caption}\n" for image, caption in rows))
    else:
        path.write_text("".join(json.dumps({"image": image, "caption": caption}) + "\n" for image, caption in rows))
    line = 3 if suffix == "csv" else 2
    message = rf"c\.{suffix}: line {line}: caption too long: {length} characters, at most 100000 are read"
    with pytest.raises(UserError, match=message) as error:
        read_quietly(settings_for(tmp_path, "table", annotations=str(path)))
    assert "broken" not in str(error.value)
    collection = read_quietly(settings_for(tmp_path, "table", annotations=str(path), on_bad="skip", val_fraction=0.0))
    assert sorted(len(caption) for split in collection.splits.values() for caption in split.captions) == [5, 100_000]
