"""The command end to end: folders that a server loads, the same vectors in plain TensorFlow, nothing half."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import vse_tf
from tests.serving.pictures import every_kind
from tests.serving.plain import answers
from tests.serving.runs import CAPTIONS, write_run
from vse_tf import export
from vse_tf.artifacts import manifest
from vse_tf.errors import UserError
from vse_tf.exporting import golden_inputs

MODELS = ("image_tower", "retrieval", "text_tower")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, contents in enumerate(every_kind()):
        (folder / f"{number}.jpg").write_bytes(contents)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def models(run, files, tmp_path_factory):
    root = tmp_path_factory.mktemp("served") / "models"
    moved = run.with_name("elsewhere")
    run.rename(moved)  # nothing may depend on where it was trained
    try:
        (root.parent / "queries.txt").write_text("\n".join(CAPTIONS))
        gallery = ["--gallery", str(files[0].parent), "--top-k", "4", "--gallery-storage", "int8"]
        gallery += ["--gallery-queries", str(root.parent / "queries.txt")]
        export.main(["--run", str(moved), "--output", str(root), *gallery])
    finally:
        moved.rename(run)
    return root


def strings(values):
    return np.array([value.encode() if isinstance(value, str) else value for value in values], object)


def folders(root):
    return sorted(str(path.relative_to(root)) for path in root.glob("*/*"))


@pytest.mark.lowest
def test_towers_and_gallery_are_version_folders_with_manifests(run, models):
    assert folders(models) == [f"{name}/1" for name in MODELS]
    for name in MODELS:
        told = manifest.verify(models / name / "1")
        assert (told["model"], told["dim"], told["custom_operations"]) == (name, 8, [])
        assert told["largest_difference"] <= 1e-5
        assert (told["run"], told["checkpoint"]["epoch"]) == ("elsewhere", 1)
        assert told["settings"]["text"]["units"] == 16
        assert told["trained"] == {"data_sha256": "abc", "seed": 0}
        assert told["written"]["versions"]["tensorflow"] == tf.__version__
        assert "saved_model.pb" in told["files"]
        assert (models / name / "1/assets.extra/tf_serving_warmup_requests").stat().st_size > 0
    image, gallery, text = (manifest.read(models / name / "1") for name in MODELS)
    assert image["image"]["size"] == [24, 24]
    assert text["text"]["vocabulary_sha256"] == gallery["text"]["vocabulary_sha256"]
    assert (gallery["gallery"]["items"], gallery["gallery"]["top_k"]) == (9, 4)
    loss = gallery["gallery"]["recall_loss"]
    assert (loss["queries"], loss["of"], loss["k"]) == (len(CAPTIONS), "the queries given", 4)
    assert {name: sorted(told["signatures"]) for name, told in (("i", image), ("r", gallery), ("t", text))} == {
        "i": ["pixels", "serving_default"],
        "r": ["search_image", "search_mixed", "search_text", "serving_default"],
        "t": ["serving_default"],
    }


@pytest.mark.lowest
def test_a_process_without_this_package_gets_the_same_vectors(run, models, files, tmp_path):
    embedder = vse_tf.load(run)
    sentences = [*CAPTIONS, *golden_inputs.TEXTS]
    pixels = golden_inputs.pixel_arrays()
    image, text, found = models / "image_tower/1", models / "text_tower/1", models / "retrieval/1"
    contents = strings([path.read_bytes() for path in files])
    by_bytes, by_pixels, by_text, nearest, nearest_image = answers(
        [
            (image, "serving_default", {"image_bytes": contents}),
            (image, "pixels", {"pixels": pixels}),
            (text, "serving_default", {"text": strings(sentences)}),
            (found, "serving_default", {"text": strings(sentences)}),
            (found, "search_image", {"image_bytes": contents}),
        ],
        tmp_path,
    )
    photos = embedder.encode_images(files)
    np.testing.assert_allclose(by_bytes["embedding"], photos, atol=1e-5)
    np.testing.assert_allclose(by_pixels["embedding"], embedder.encode_images(list(pixels)), atol=1e-5)
    texts = embedder.encode_texts(sentences)
    np.testing.assert_allclose(by_text["embedding"], texts, atol=1e-5)
    assert by_text["embedding"].dtype == np.float32
    # int8 storage moves a score by half a step of 1/127 a component at most.
    exact = -np.sort(-texts @ photos.T, axis=1)[:, :4]
    np.testing.assert_allclose(nearest["scores"], exact, atol=0.02)
    assert nearest_image["ids"][:, 0].tolist() == [path.name for path in files]
    for answer in (nearest, nearest_image):
        assert answer["relevance"].shape == answer["scores"].shape
        assert ((answer["relevance"] >= 0) & (answer["relevance"] <= 1)).all()
    assert (nearest_image["captions"] == nearest_image["ids"]).all()


def test_a_second_export_is_a_second_version_and_the_first_stays(run, models, capsys, tmp_path):
    root = tmp_path / "models"
    shutil.copytree(models, root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    export.main(["--run", str(run), "--output", str(root), "--max-pixels", "100"])
    assert folders(root) == ["image_tower/1", "image_tower/2", "retrieval/1", "text_tower/1", "text_tower/2"]
    assert all(path.read_bytes() == contents for path, contents in before.items())
    told = capsys.readouterr().out
    assert str(root / "text_tower" / "2") in told
    assert "core TensorFlow operations only" in told
    assert "python -m vse_tf.serve --models" in told
    second = tf.saved_model.load(str(root / "image_tower/2")).signatures["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"image_bytes\[0\]: the header .* at most 100 pixels"):
        second(image_bytes=tf.constant([every_kind()[0]]))


def killed_export(run, root, when):
    command = [sys.executable, "-m", "vse_tf.export", "--run", str(run), "--output", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 180
        while process.poll() is None and not when(root) and time.monotonic() < give_up:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()


def loadable(root):
    return [path for path in root.rglob("*") if path.is_dir() and path.name.isdigit()]


def test_a_killed_export_leaves_nothing_that_a_server_would_load(run, tmp_path):
    root = tmp_path / "models"
    killed_export(run, root, lambda root: any(root.glob("text_tower/.*/saved_model.pb")))
    assert any(root.rglob("saved_model.pb"))  # it was killed in the midst of it
    assert loadable(root) == []


@pytest.mark.evidence
@pytest.mark.parametrize("delay", np.linspace(0, 3, 13).tolist())
def test_a_killed_export_leaves_whole_versions_or_none(run, tmp_path, delay):
    root, begun = tmp_path / "models", []

    def when(root):
        if not begun and root.exists():
            begun.append(time.monotonic())
        return bool(begun) and time.monotonic() > begun[0] + delay

    killed_export(run, root, when)
    for path in loadable(root):
        manifest.verify(path)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--run", "nowhere"], "no run here"),
        (["--top-k", "0"], "--top-k: 0 is not above 0"),
        (["--max-pixels", "-1"], "--max-pixels: -1"),
        (["--gallery", "nowhere"], "nowhere: no such file or folder"),
        (["--gallery", "nowhere", "--format", "onnx"], "--gallery: onnx has only the towers"),
        (["--format", "tflite"], "--format"),
        (["--checkpoint", "first"], "--checkpoint"),
        (["--output", "README.md"], "--output: .*README.md is not a folder"),
        (["--output", "README.md/models"], "--output: .*README.md is not a folder"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(run, tmp_path, monkeypatch, argv, told):
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("mine")
    with pytest.raises(UserError, match=told) as caught:
        export.main(["--run", str(run), "--output", "models", *argv])
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_run_that_has_no_checkpoint_yet_is_one_line(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint; the run ended before"):
        export.main(["--run", str(tmp_path / "run"), "--output", str(tmp_path / "models")])
    assert not (tmp_path / "models").exists()


def test_help_answers_without_tensorflow():
    code = (
        "import sys\nfrom vse_tf import export\ntry:\n    export.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('tensorflow' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--gallery-storage" in found.stdout
    assert found.stdout.splitlines()[-1] == "False"


@pytest.mark.skipif("VSE_TF_FLICKR8K" not in os.environ, reason="VSE_TF_FLICKR8K names no folder of photos")
def test_real_photos_and_captions_have_the_live_models_vectors(run, models):
    folder = Path(os.environ["VSE_TF_FLICKR8K"])
    captions = json.loads((folder / "dataset_flickr8k.json").read_text())["images"][::160]
    sentences = [sentence["raw"] for image in captions for sentence in image["sentences"]]
    paths = [folder / "images" / image["filename"] for image in captions]
    paths = [path for path in paths if path.exists()]
    embedder = vse_tf.load(run)
    image, text = (
        tf.saved_model.load(str(models / name / "1")).signatures["serving_default"]
        for name in ("image_tower", "text_tower")
    )
    found = image(image_bytes=tf.constant([path.read_bytes() for path in paths]))["embedding"]
    np.testing.assert_allclose(found, embedder.encode_images(paths), atol=1e-5)
    found = text(text=tf.constant(sentences))["embedding"]
    np.testing.assert_allclose(found, embedder.encode_texts(sentences), atol=1e-5)


def test_batching_is_exported_and_its_loss_is_noticed(run, tmp_path, capsys):
    root = tmp_path / "models"
    file = Path(__file__).parents[1] / "export" / "batching_params.pbtxt"
    arguments = ["--run", str(run), "--output", str(root)]
    export.main([*arguments, "--batching", str(file)])
    assert [path.parent.parent.name for path in root.rglob(file.name)] == ["text_tower"]
    assert (root / "text_tower" / "1" / file.name).read_bytes() == file.read_bytes()
    capsys.readouterr()
    export.main(arguments)
    assert f"--batching {root / 'text_tower' / '1' / file.name}" in capsys.readouterr().err


def test_a_batching_file_that_stops_the_server_stops_the_export(run, tmp_path):
    refused = tmp_path / "batching.pbtxt"
    refused.write_text("max_batch_size { value: 16 } allowed_batch_sizes: 8")
    arguments = ["--run", str(run), "--output", str(tmp_path / "models")]
    with pytest.raises(UserError, match=r"^--batching: .*batching.pbtxt: allowed_batch_sizes ends with 8"):
        export.main([*arguments, "--batching", str(refused)])
    with pytest.raises(UserError, match="--batching: onnx"):
        export.main([*arguments, "--batching", str(refused), "--format", "onnx"])
    assert not (tmp_path / "models").exists()
