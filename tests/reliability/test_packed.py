"""One seed on the same photos as files, tar shards and Parquet: the same bits, also after kills."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.reliability.runs import assert_same, file_arguments
from tests.reliability.test_resume import Crash, crash, stopped_at
from vse_tf import evaluate, pack, train


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    """Arguments of a run on files, on tar shards and on Parquet files of the same images and captions."""
    folder = tmp_path_factory.mktemp("packed")
    of_files = file_arguments(folder, folder / "files", train__epochs=2, data__workers=2)
    values = dict(zip(of_files[::2], of_files[1::2], strict=True))
    data = {key: values.pop(key) for key in ("--data.source", "--data.annotations", "--data.images")}
    packed = [part for key in ("--data.annotations", "--data.images") for part in (key, data[key])]
    pack.main([*packed, "--data.cache_dir", values["--data.cache_dir"], "--output", str(folder / "shards")])
    rows: dict[str, list] = {}
    for line in (folder / "captions.csv").read_text().splitlines()[1:]:
        name, caption, split = line.split(",")
        rows.setdefault(split, []).append(
            {"image": {"bytes": (folder / "images" / name).read_bytes(), "path": name}, "caption": caption}
        )
    (folder / "parquet").mkdir()
    for split, each in rows.items():
        parquet.write_table(pa.Table.from_pylist(each), folder / "parquet" / f"{split}-00000.parquet", row_group_size=7)
    rest = [part for pair in values.items() for part in pair]

    def of(name):
        argv = [*rest, "--data.annotations", str(folder / name)]
        argv[argv.index("--train.run_dir") + 1] = str(folder / f"run-{name}")
        return argv

    train.main(of_files)
    return folder, of


@pytest.mark.parametrize(("way", "kills"), [("shards", (2, 7)), ("parquet", (4,))])
def test_packed_photos_train_to_the_bits_of_files(ways, way, kills, monkeypatch):
    folder, of = ways
    for step in kills:
        with pytest.raises(Crash):
            stopped_at(monkeypatch, of(way), step, crash)
    train.main(of(way))
    assert_same(folder / f"run-{way}", folder / "files")


def test_a_run_on_files_is_measured_on_shards(ways, tmp_path):
    folder, _ = ways
    found = []
    for number, argv in enumerate(([], ["--data.annotations", str(folder / "shards")])):
        output = tmp_path / f"{number}.json"
        errors = ["--errors", str(tmp_path / f"{number}.html")]
        evaluate.main(["--run", str(folder / "files"), "--split", "val", *argv, "--output", str(output), *errors])
        found.append(json.loads(output.read_text()))
    assert found[0]["metrics"] == found[1]["metrics"]
    assert found[0]["provenance"]["data_sha256"] == found[1]["provenance"]["data_sha256"]
    pages = [(tmp_path / f"{number}.html").read_text() for number in range(2)]
    assert pages[0].count("<img") == pages[1].count("<img") > 0
