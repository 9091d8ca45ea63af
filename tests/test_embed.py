"""The embed command, end to end."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import vse_tf
from vse_tf import embed, search
from vse_tf.artifacts.index import Index
from vse_tf.errors import UserError

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images" / "more").mkdir(parents=True)
    for name in ("a.jpg", "b.png", "more/c.png", "more/d.jpg", "more/e.png"):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(tmp_path / "images" / name)
    return tmp_path / "images"


@pytest.mark.lowest
def test_the_index_contains_the_vectors_of_the_model(tiny_run, images, tmp_path, capsys):
    (images / "cut.jpg").write_bytes((images / "a.jpg").read_bytes()[:300])
    output = str(tmp_path / "my index")
    embed.main(["--run", str(tiny_run), "--images", str(images), "--output", output, "--shard_rows", "4"])
    index = Index.open(output)
    assert [item.id for item in index.all_items()] == ["a.jpg", "b.png", "more/c.png", "more/d.jpg", "more/e.png"]
    expected = vse_tf.load(tiny_run).encode_images([index.path(item) for item in index.all_items()])
    np.testing.assert_allclose(index.matrix(), expected, atol=1e-6)
    assert index.model["path"] == os.path.relpath(tiny_run, output)
    for path in index.folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path
        assert str(tiny_run).encode() not in path.read_bytes(), path
    printed = capsys.readouterr()
    command = f"vse_tf.search --index '{output}'"
    for line in ("5 images, 8 dimensions, 2 shards", "5 new, 0 changed", "1 skipped", command):
        assert line in printed.out
    listed = json.loads((tmp_path / "my index" / "skipped.jsonl").read_text())
    assert listed["where"] == "cut.jpg"
    assert "undecodable" in listed["what"]
    embed.main(["--run", str(tiny_run), "--images", str(images), "--output", output])
    assert "0 new, 0 changed, 0 deleted, 5 unchanged" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"cut\.jpg.*--on_bad skip"):
        embed.main(["--run", str(tiny_run), "--images", str(images), "--output", output, "--on_bad", "fail"])


@pytest.mark.lowest
def test_exported_models_embed_as_their_run_does(tiny_run, tiny_models, images, tmp_path, capsys):
    (images / "cut.jpg").write_bytes((images / "a.jpg").read_bytes()[:300])
    (images / "text.jpg").write_text("not an image")
    (tmp_path / "list.txt").write_text("images/b.png\nimages/cut.jpg\nimages/text.jpg\nimages/a.jpg\n")
    command = [
        "--models",
        str(tiny_models),
        "--images",
        str(tmp_path / "list.txt"),
        "--output",
        str(tmp_path / "index"),
    ]
    embed.main([*command, "--batch_size", "3"])
    index = Index.open(tmp_path / "index")
    assert [item.id for item in index.all_items()] == ["images/b.png", "images/a.jpg"]
    expected = vse_tf.load(tiny_run).encode_images([images / "b.png", images / "a.jpg"])
    np.testing.assert_allclose(index.matrix(), expected, atol=1e-5)
    listed = (tmp_path / "index" / "skipped.jsonl").read_text()
    assert "cut.jpg" in listed
    assert 'not a JPEG, PNG, GIF, BMP or WebP image"' in listed
    # The run is the same model: nothing is embedded again.
    capsys.readouterr()
    embed.main(["--run", str(tiny_run), *command[2:]])
    assert "2 unchanged" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"cut\.jpg.*--on_bad skip"):
        embed.main([*command[:-1], str(tmp_path / "other"), "--on_bad", "fail"])
    search.main(["--index", str(tmp_path / "index"), "--models", str(tiny_models), "a red circle", "--json"])
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_an_index_loads_no_program(tiny_models, images, tmp_path, monkeypatch):
    import tensorflow as tf  # noqa: PLC0415

    output = str(tmp_path / "index")
    embed.main(["--models", str(tiny_models), "--images", str(images), "--output", output])
    monkeypatch.setattr(tf.saved_model, "load", lambda *args: pytest.fail("a program was loaded"))
    typed = re.escape(f"--models {tiny_models}")
    with pytest.raises(UserError, match=rf"index was made by exported models \(.*\), which are programs.*{typed}$"):
        search.main(["--index", output, "a red circle"])
    # Calling it a run does not help.
    path = tmp_path / "index" / "manifest.json"
    path.write_text(path.read_text().replace('"kind": "models"', '"kind": "run"'))
    with pytest.raises(UserError, match="no run here"):
        search.main(["--index", output, "a red circle"])


def test_captions_by_exported_models(tiny_run, tiny_models, tmp_path):
    (tmp_path / "captions.txt").write_text("a red circle\nein roter Kreis\n")
    output = str(tmp_path / "index")
    embed.main(["--models", str(tiny_models), "--captions", str(tmp_path / "captions.txt"), "--output", output])
    expected = vse_tf.load(tiny_run).encode_texts(["a red circle", "ein roter Kreis"])
    np.testing.assert_allclose(Index.open(output).matrix(), expected, atol=1e-5)


def test_a_changed_model_file_is_not_loaded(tiny_models, images, tmp_path):
    shutil.copytree(tiny_models, tmp_path / "models")
    path = tmp_path / "models" / "image_tower" / "1" / "saved_model.pb"
    path.write_bytes(path.read_bytes() + b"x")
    command = ["--models", str(tmp_path / "models"), "--images", str(images), "--output", str(tmp_path / "index")]
    with pytest.raises(UserError, match=r"saved_model\.pb: damaged or replaced"):
        embed.main(command)
    shutil.rmtree(tmp_path / "models" / "text_tower")
    with pytest.raises(UserError, match=r"text_tower holds no version"):
        embed.main(command)


def test_captions(tiny_run, tmp_path, capsys):
    (tmp_path / "captions.txt").write_text("a red circle\nein roter Kreis\n")
    output = str(tmp_path / "index")
    embed.main(["--run", str(tiny_run), "--captions", str(tmp_path / "captions.txt"), "--output", output])
    expected = vse_tf.load(tiny_run).encode_texts(["a red circle", "ein roter Kreis"])
    np.testing.assert_allclose(Index.open(output).matrix(), expected, atol=1e-6)
    assert "2 captions" in capsys.readouterr().out


def test_indexes_are_merged(tiny_run, images, tmp_path, capsys):
    for name in ("a", "b"):
        embed.main(["--run", str(tiny_run), "--images", str(images / "more"), "--output", str(tmp_path / name)])
    embed.main(["--merge", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "all")])
    assert "all: 6 images" in capsys.readouterr().out
    assert Index.open(tmp_path / "all").count == 6


def test_a_killed_process_repeated_redoes_no_finished_shard(tiny_run, images, tmp_path):
    for i in range(40):
        Image.new("RGB", (20, 20), (i * 6, 90, 200 - i)).save(images / f"more{i}.png")
    output = tmp_path / "index"
    command = ["--run", str(tiny_run), "--images", str(images), "--output", str(output), "--shard_rows", "3"]
    process = subprocess.Popen([sys.executable, "-m", "vse_tf.embed", *command], stderr=subprocess.DEVNULL)
    while len(list(output.glob(".embed/part-*.jsonl"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(UserError, match="no index here"):
        Index.open(output)
    # A shard counts as finished once its part is recorded; the kill may fall between the two files.
    heads = [json.loads(path.read_text().splitlines()[0]) for path in output.glob(".embed/part-*.jsonl")]
    finished = {output / head["shard"]["name"]: (output / head["shard"]["name"]).stat().st_ino for head in heads}
    assert len(finished) >= 2
    embed.main(command)
    index = Index.open(output)
    index.verify()
    assert index.count == 45
    assert {path: path.stat().st_ino for path in finished} == finished
    assert not (output / ".embed").exists()


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "either --images or --captions"),
        (["--images", "a", "--captions", "b"], "either --images or --captions"),
        (["--images", "no/such"], "--images: no/such: No such file"),
        (["--images", ".", "--shard_rows", "0"], "--shard_rows: 0"),
        (["--images", ".", "--batch_size", "-1"], "--batch_size: -1"),
        (["--images", ".", "--on_bad", "maybe"], "on_bad"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, argv, named):
    with pytest.raises(UserError, match=named):
        embed.main(["--run", str(tmp_path), "--output", str(tmp_path / "index"), *argv])
    assert not (tmp_path / "index").exists()


def test_no_model_is_one_line(images, tmp_path):
    with pytest.raises(UserError, match="name the model: either --run"):
        embed.main(["--images", str(images), "--output", str(tmp_path / "index")])
    with pytest.raises(UserError, match="no run here"):
        embed.main(["--run", str(images), "--images", str(images), "--output", str(tmp_path / "index")])
    (images / "config.yaml").write_text("{}")
    with pytest.raises(UserError, match="no checkpoint"):
        embed.main(["--run", str(images), "--images", str(images), "--output", str(tmp_path / "index")])


def test_help_and_mistakes_need_no_tensorflow():
    code = "import sys; import vse_tf.embed, vse_tf.indexing.embedding_models; print('tensorflow' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert found.stdout.strip() == "False"


def test_a_form_of_vectors_that_there_is_not(tiny_run, images, tmp_path):
    argv = ["--run", str(tiny_run), "--images", str(images), "--output", str(tmp_path / "index")]
    for storage, problem in (("int9", "'int9' is not float32, float16 or int8"), ("int8:9", "9 is not a number")):
        with pytest.raises(UserError, match=f"--storage: {problem}"):
            embed.main([*argv, "--storage", storage])
    assert not (tmp_path / "index").exists()
