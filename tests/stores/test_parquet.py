"""A folder of Parquet files: the index's rows, the same again, and never half of them."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import dataset

from tests.stores.indexes import made_index
from vse_tf import publish
from vse_tf.errors import UserError
from vse_tf.stores import parquet
from vse_tf.stores.address import address_of
from vse_tf.stores.parquet import publish_parquet

CONTENTS = {f"item {i:02}": i for i in range(12)}


def rows(folder):
    return dataset.dataset(folder, format="parquet").to_table().sort_by("id")


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_rows_are_those_of_the_index(tmp_path, capsys):
    index, folder = made_index(tmp_path / "index", CONTENTS), tmp_path / "out.parquet"
    publish.main([str(tmp_path / "index"), "--to", str(folder)])
    assert "12 captions in 3 files: 3 new, 0 changed, 0 deleted, 0 unchanged" in capsys.readouterr().out
    found = rows(folder)
    np.testing.assert_array_equal(found["vector"].to_pylist(), index.matrix())
    assert found["id"].to_pylist() == list(CONTENTS)
    assert found["caption"].to_pylist() == [f"caption {i}" for i in CONTENTS.values()]
    assert found.schema.field("vector").type == pa.list_(pa.float32(), 6)
    about = json.loads(found.schema.metadata[b"vse_tf"])
    assert (about["dim"], about["kind"], about["model"]["name"]) == (6, "captions", "a-run")
    before = files(folder)
    publish.main([str(tmp_path / "index"), "--to", str(folder)])
    assert files(folder) == before, "written again"


def test_what_has_gone_goes_and_the_rest_stays(tmp_path):
    folder = tmp_path / "out.parquet"
    publish_parquet(made_index(tmp_path / "a", CONTENTS), address_of(str(folder)))
    before = files(folder)
    fewer = {name: seed for name, seed in CONTENTS.items() if seed < 10} | {"new": 77}
    result = publish_parquet(made_index(tmp_path / "b", fewer), address_of(str(folder)))
    assert (result.new, result.deleted, result.unchanged) == (1, 1, 2)
    assert rows(folder)["id"].to_pylist() == sorted(fewer)
    assert len(files(folder).items() & before.items()) == 2


def test_readers_see_the_old_rows_until_the_new_are_there(tmp_path, monkeypatch):
    folder = tmp_path / "out.parquet"
    publish_parquet(made_index(tmp_path / "a", CONTENTS), address_of(str(folder)))
    new = made_index(tmp_path / "b", {name: seed + 100 for name, seed in CONTENTS.items()})
    written, write = [], parquet.parquet.write_table

    def killed(rows, file, **options):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(rows)
        write(rows, file, **options)

    monkeypatch.setattr(parquet.parquet, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        publish_parquet(new, address_of(str(folder)))
    assert rows(folder)["caption"].to_pylist() == [f"caption {seed}" for seed in CONTENTS.values()]
    written.clear()
    publish_parquet(new, address_of(str(folder)))
    assert len(written) == 1, "what was finished was written again"
    assert rows(folder)["caption"].to_pylist() == [f"caption {seed + 100}" for seed in CONTENTS.values()]
    assert all(name.startswith("part-") for name in files(folder))


def test_other_folders_are_left_alone(tmp_path):
    index = made_index(tmp_path / "index", CONTENTS)
    folder = tmp_path / "my.parquet"
    folder.mkdir()
    (folder / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds something else \(precious.txt\)"):
        publish_parquet(index, address_of(str(folder)))
    with pytest.raises(UserError, match=r"s3://bucket/a\.parquet: Parquet files are written to a folder"):
        publish_parquet(index, address_of("s3://key:secret@bucket/a.parquet"))
    with pytest.raises(UserError, match="--approximate"):
        publish.main([str(tmp_path / "index"), "--to", str(folder), "--approximate"])
