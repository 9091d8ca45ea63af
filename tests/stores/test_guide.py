"""The guide's commands, run as they stand but for the address of the database."""

import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest
from pyarrow import dataset

from vse_tf import embed
from vse_tf.stores import postgresql

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "stores.md").read_text(encoding="utf-8")


def lines(language):
    blocks = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.extras
@pytest.mark.usefixtures("loaded_once")
def test_the_commands_run(postgresql, tiny_run, noise_images, tmp_path, monkeypatch, capsys):
    pytest.importorskip("lancedb", reason="needs pip install 'vse_tf[lancedb]'")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, "runs/table-convse-0")
    shutil.copytree(noise_images, "photos")
    embed.main(["--run", "runs/table-convse-0", "--images", "photos", "--output", "photos.index"])
    done = set()
    for line in lines("sh"):
        if line.startswith("pip install"):
            continue
        name, *argv = shlex.split(line.replace("postgresql://localhost/photos", postgresql))[1:]
        importlib.import_module(f"vse_tf.{name}").main(argv)
        done.add(name)
    assert done == {"publish", "search"}
    assert dataset.dataset("photos.parquet").count_rows() == 12
    assert "recall@10" in capsys.readouterr().out


def test_the_numbers_of_the_guide_are_those_of_the_code():
    assert f"{postgresql.MAX_INDEXED_DIM:,} dimensions" in GUIDE
    assert f"`ef_search` {postgresql.LOOKED_AT}" in GUIDE
    assert f"{postgresql.LINKS} links" in GUIDE
