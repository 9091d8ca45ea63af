"""The command, end to end on the built-in set."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.plugins.projector import ProjectorConfig
from tensorboard.plugins.projector.projector_plugin import _read_tensor_binary_file, _read_tensor_tsv_file

import vse_tf
from tests.tiny import arguments, rows_of, tiny_settings
from tests.warm_python import warm_python
from vse_tf import evaluate, plain_embedder, train
from vse_tf.data.bad_images import BadImages
from vse_tf.data.sources import read
from vse_tf.embedder import load
from vse_tf.errors import UserError
from vse_tf.evaluation.metrics import METRICS
from vse_tf.exporting.towers import image_module
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.pages.pictures import TILE


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "My Drive" / "run 1"
    train.main(arguments(folder, train__examples=2, train__projector=10))
    return folder


@pytest.mark.lowest
def test_the_run_folder_holds_what_it_promises(run):
    there = {path.name for path in run.iterdir()}
    assert there >= {"config.yaml", "model.json", "tokenizer", "checkpoints", "logs", "metrics.jsonl", "results.json"}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["step"] for row in rows] == [4, 8]
    assert all(set(row["metrics"]) == set(METRICS) for row in rows)
    results = json.loads((run / "results.json").read_text())
    best = max(rows, key=lambda row: row["metrics"]["rsum"])
    assert results["best"]["metrics"] == best["metrics"]
    assert results["last"]["epoch"] == 2
    assert set(results["galleries"]) == {"val", "test", "hard"}
    assert results["provenance"]["versions"]["keras"]
    assert "time" not in json.dumps(results["last"])


def test_the_command_reports_table_folder_and_next_commands(run, capsys):
    train.main(arguments(run, train__examples=2, train__projector=10))
    output = capsys.readouterr().out
    assert output.startswith(f"already finished: {run}, 2 epochs; for more epochs: --train.epochs N\n")
    for expected in ("val", "hard", "R@1", "chance", "val has 20 images: one image is 5.0 points of R@1", str(run)):
        assert expected in output
    look, measure = (line.split(": ", 1)[1] for line in output.splitlines() if "it: " in line)
    assert shlex.split(look) == ["tensorboard", "--logdir", str(run / "logs")]
    assert shlex.split(measure) == ["python", "-m", "vse_tf.evaluate", "--run", str(run)]


@pytest.mark.lowest
def test_evaluate_reproduces_the_best_row_in_a_new_process(run, tmp_path):
    output = tmp_path / "found.json"
    command = ["-m", "vse_tf.evaluate", "--run", str(run), "--split", "val", "--output", str(output)]
    subprocess.run([*warm_python(), *command], check=True, capture_output=True, cwd=tmp_path)
    found = json.loads(output.read_text())
    assert found["split"] == "val"
    assert found["metrics"] == max(rows_of(run), key=lambda row: row["metrics"]["rsum"])["metrics"]
    assert found["provenance"]["seed"] == 0


def test_evaluate_measures_the_galleries_of_the_results(run, tmp_path):
    evaluate.main(["--run", str(run), "--split", "hard", "--output", str(tmp_path / "hard.json")])
    results = json.loads((run / "results.json").read_text())
    assert json.loads((tmp_path / "hard.json").read_text())["metrics"] == results["galleries"]["hard"]


def test_evaluate_takes_other_data_and_folds(run, capsys):
    evaluate.main(["--run", str(run), "--split", "val", "--data.shapes.gallery_scenes", "40", "--folds", "5"])
    output = capsys.readouterr().out
    # A fold has eight images.
    assert "chance 12.5" in " ".join(output.split()) and "val has 8 images" in output


@pytest.mark.parametrize(
    ("argv", "named"),
    [(["--split", "nope"], "nope.*val"), (["--folds", "0"], "--folds"), (["--output", "no/such/x.json"], "--output")],
)
def test_a_mistake_in_evaluate_is_one_line(run, argv, named):
    with pytest.raises(UserError, match=named):
        evaluate.main(["--run", str(run), *argv])


@pytest.mark.lowest
def test_tensorboard_has_scalars_pictures_and_hyper_parameters(run):
    tags, images = set(), {}
    for file in run.glob("logs/*/events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                tags.add(value.tag)
                if value.metadata.plugin_data.plugin_name == "images":
                    images[value.tag] = tf.io.decode_png(value.tensor.string_val[2]).shape
    assert tags >= {
        "train/loss",
        "train/learning_rate",
        "train/pairs_per_second",
        "val/rsum",
        "val/i2t_r1",
        "epoch/pairs_per_second",
    }
    assert any("accuracy" in tag for tag in tags)
    assert any("gap" in tag for tag in tags)
    assert sorted(images) == [f"{kind}/{n}" for kind in ("caption_to_images", "image_to_captions") for n in (1, 2)]
    # TensorBoard's cards are 335 pixels wide or wider: text is shown at its size.
    assert {width for _, width, _ in images.values()} == {340}


def test_tensorboard_names_the_run_and_shows_its_recalls(run):
    assert [path.name for path in (run / "logs").iterdir()] == ["run 1"]
    assert EventMultiplexer().AddRunsFromDirectory(str(run / "logs")).Runs().keys() == {"run 1"}
    shown = {}
    for file in run.glob("logs/*/events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                if value.tag == "_hparams_/experiment":
                    content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                    shown = {each.name.tag: each.display_name for each in content.experiment.metric_infos}
    assert list(shown) == ["val/rsum", "val/i2t_r1", "val/t2i_r1"]


@pytest.mark.lowest
def test_the_projector_holds_images_and_their_first_captions(run, tmp_path):
    logs = run / "logs" / run.name
    config = text_format.Parse((logs / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (embedding,) = config.embeddings
    for path in (embedding.tensor_path, embedding.metadata_path, embedding.sprite.image_path):
        assert (logs / path).exists()
    vectors = _read_tensor_binary_file(str(logs / embedding.tensor_path), embedding.tensor_shape)
    with pytest.raises(UnicodeDecodeError):
        _read_tensor_tsv_file(str(logs / embedding.tensor_path))
    head, *rows = [line.split("\t") for line in (logs / embedding.metadata_path).read_text().splitlines()]
    assert head == ["label", "modality"]
    assert [kind for _, kind in rows] == ["image"] * 10 + ["caption"] * 10
    val = read(tiny_settings(tmp_path).data).splits["val"]
    labels = [record.captions[0] for record in val.records[:10]]
    assert [label for label, _ in rows] == labels * 2
    model = load(run, "last")
    images = model.encode_split(val, BadImages("fail", 10**8)).image[:10]
    np.testing.assert_allclose(vectors, np.concatenate([images, model.encode_texts(labels)]), atol=1e-4)
    sprite = tf.io.decode_png(tf.io.read_file(str(logs / embedding.sprite.image_path))).numpy()
    assert sprite.shape == (5 * 64, 5 * 64, 3)
    tiles = [sprite[64 * (i // 5) :, 64 * (i % 5) :][:64, :64] for i in range(20)]
    assert all(tile.std() > 0 for tile in tiles)
    # Captions are told apart from images by their colour, and from one another by their words.
    assert all((tile[0] == TILE).all() for tile in tiles[10:])
    assert len({tile.tobytes() for tile in tiles[10:]}) == len(set(labels))


def test_load_encodes_images_and_texts(run, tmp_path):
    model = vse_tf.load(run)
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    tf.io.write_file(str(tmp_path / "a.png"), tf.io.encode_png(image))
    from_path = model.encode_images([tmp_path / "a.png"])
    from_array = model.encode_images([image, image[:, :20]])
    assert from_array.shape == (2, 8)
    np.testing.assert_allclose(from_path[0], from_array[0], atol=1e-6)
    texts = model.encode_texts(["a red circle", "", "Ein roter Kreis 😀 " * 5000])
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)
    # Another batch may be multiplied by another kernel: equal to rounding, not to the bit.
    np.testing.assert_allclose(model.encode_texts(["a red circle"]), texts[:1], atol=1e-6)
    assert model.encode_images([]).shape == model.encode_texts([]).shape == (0, 8)
    assert model.image_tower.output_shape == model.text_tower.output_shape == (None, 8)
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        model.encode_images([tmp_path / "missing.png"])


@pytest.mark.lowest
def test_paths_arrays_and_exports_give_an_image_one_vector(run, tmp_path):
    model = load(run)
    val = read(model.settings.data).split("val")
    measured = model.encode_split(val, BadImages("fail", 10**8)).image[:3]
    arrays = list(val.images.load(np.arange(3)))
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, array in zip(paths, arrays, strict=True):
        tf.io.write_file(str(path), tf.io.encode_png(array))
    np.testing.assert_allclose(model.encode_images(arrays), measured, atol=1e-6)
    np.testing.assert_allclose(model.encode_images(paths), measured, atol=1e-6)
    signatures = image_module(model).signatures()
    got = signatures["pixels"](pixels=tf.constant(np.stack(arrays)))["embedding"]
    np.testing.assert_allclose(got, measured, atol=1e-5)


def test_a_run_folder_works_elsewhere(run, tmp_path):
    moved = tmp_path / "moved"
    run.rename(moved)
    try:
        first = load(moved).encode_texts(["a red circle"])
    finally:
        moved.rename(run)
    np.testing.assert_array_equal(first, load(run).encode_texts(["a red circle"]))


def test_load_of_no_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no run here"):
        vse_tf.load(tmp_path)


def test_import_loads_no_tensorflow():
    code = "import sys, vse_tf; print('tensorflow' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_same_seed_same_weights_when_deterministic(tmp_path):
    for name in ("a", "b"):
        train.main(arguments(tmp_path / name, train__deterministic="true", model__dropout=0.1))
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    first, second = (load(tmp_path / name, "last").model for name in ("a", "b"))
    for mine, other in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy(), err_msg=mine.path)
    train.main(arguments(tmp_path / "c", train__deterministic="true", model__dropout=0.1, train__seed=1))
    assert rows_of(tmp_path / "c") != rows_of(tmp_path / "a")


@pytest.mark.lowest
def test_two_replicas_train_through_the_command(tmp_path):
    # 2 of the logical CPU devices that the test run has
    train.main(arguments(tmp_path / "two", distribution__strategy="mirrored", distribution__virtual_cpus=2))
    train.main(arguments(tmp_path / "one"))
    for two, one in zip(rows_of(tmp_path / "two"), rows_of(tmp_path / "one"), strict=True):
        assert two["train"]["loss"] == pytest.approx(one["train"]["loss"], rel=1e-4)
        assert two["metrics"].keys() == one["metrics"].keys()


@pytest.mark.lowest
def test_more_epochs_continue_a_finished_run(tmp_path):
    folder = tmp_path / "run"
    train.main(arguments(folder, train__schedule="constant", train__epochs=1))
    train.main(arguments(folder, train__schedule="constant", train__epochs=3))
    straight = tmp_path / "straight"
    train.main(arguments(straight, train__schedule="constant", train__epochs=3))
    assert [row["epoch"] for row in rows_of(folder)] == [1, 2, 3]
    for mine, other in zip(rows_of(folder), rows_of(straight), strict=True):
        assert mine["train"]["loss"] == pytest.approx(other["train"]["loss"], rel=1e-5)
    steps = [
        event.step
        for file in folder.glob("logs/*/events.*")
        for event in tf.compat.v1.train.summary_iterator(str(file))
        if any(value.tag == "val/rsum" for value in event.summary.value)
    ]
    assert sorted(steps) == [4, 8, 12]
    with pytest.raises(UserError, match=r"train\.epochs: 2.*3 epochs"):
        train.main(arguments(folder, train__schedule="constant", train__epochs=2))


def test_other_settings_do_not_continue_a_run(tmp_path):
    folder = tmp_path / "run"
    train.main(arguments(folder, train__epochs=1))
    with pytest.raises(UserError, match=r"loss\.temperature \(was 0\.07, is 0\.2\)"):
        train.main(arguments(folder, loss__temperature=0.2))
    with pytest.raises(UserError, match=r"train\.resume is never"):
        train.main(arguments(folder, train__epochs=1, train__resume="never"))
    train.main(arguments(folder, loss__temperature=0.2, train__resume="force"))
    assert [row["epoch"] for row in rows_of(folder)] == [1, 2]


def test_early_stopping_says_so_and_stays_stopped(tmp_path, capsys):
    argv = arguments(tmp_path / "run", train__epochs=9, train__patience=1, train__learning_rate=1e-9)
    train.main(argv)
    output = capsys.readouterr().out
    assert "stopped early" in output
    epochs = len(rows_of(tmp_path / "run"))
    assert epochs < 9
    train.main(argv)
    assert len(rows_of(tmp_path / "run")) == epochs


def test_a_diverged_run_stops_with_a_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"(loss is (nan|inf)|not finite)"):
        train.main(arguments(tmp_path / "run", train__learning_rate=2e9, train__clip_norm=0, train__warmup_epochs=0))
    rows = rows_of(tmp_path / "run") if (tmp_path / "run" / "metrics.jsonl").exists() else []
    assert all(np.isfinite(row["train"]["loss"]) for row in rows)


def test_non_finite_weights_give_no_score(tmp_path):
    folder = tmp_path / "run"
    train.main(arguments(folder, train__epochs=1))
    embedder = load(folder)
    weight = embedder.text_tower.trainable_variables[-1]
    weight.assign(np.full(weight.shape, np.nan))
    from vse_tf.artifacts.checkpoint_files import Position  # noqa: PLC0415
    from vse_tf.artifacts.checkpoints import Checkpoints  # noqa: PLC0415

    embedder.model.compile("adam")
    Checkpoints(folder / "checkpoints").save(embedder.model, Position(1, 4), best=True)
    with pytest.raises(UserError, match=r"text.*row 0"):
        evaluate.main(["--run", str(folder), "--split", "val", "--output", str(tmp_path / "x.json")])
    assert not (tmp_path / "x.json").exists()


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"train\.run_dir"):
        train.main(arguments(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_fewer_pairs_than_a_batch_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"train\.batch_size: 128.*64"):
        train.main(arguments(tmp_path / "run", train__batch_size=128))


@pytest.mark.lowest
def test_no_run_to_start_from_is_found_before_the_data_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("vse_tf.training.trainer.read", lambda *_, **__: pytest.fail("the data are read"))
    with pytest.raises(UserError, match=r"^train\.init_from: .*/base: no run here"):
        train.main(arguments(tmp_path / "run", train__init_from=tmp_path / "base"))
    assert not (tmp_path / "run").exists()


def test_init_from_takes_the_weights_over(tmp_path, capsys):
    train.main(arguments(tmp_path / "base"))
    train.main(
        arguments(
            tmp_path / "plus",
            train__init_from=tmp_path / "base",
            loss__name="convse++",
            train__learning_rate=1e-12,
            train__epochs=1,
            model__head="true",
            model__head_units=8,
        )
    )
    output = capsys.readouterr().out
    assert "weights loaded" in output
    assert "start fresh" in output
    base, plus = load(tmp_path / "base"), load(tmp_path / "plus")
    np.testing.assert_allclose(
        base.text_tower.get_layer("gru").get_weights()[1], plus.text_tower.get_layer("gru").get_weights()[1], atol=1e-6
    )


def test_settings_of_tiny_runs_are_complete(tmp_path):
    assert tiny_settings(tmp_path).train.epochs == 2


def test_provenance_is_complete(run):
    found = json.loads((run / "results.json").read_text())["provenance"]
    assert found["seed"] == 0
    assert found["settings"]["train"]["epochs"] == 2
    assert found["settings"]["data"]["source"] == "shapes"
    assert set(found["versions"]) >= {"tensorflow", "keras", "keras-hub", "numpy"}
    assert found["vse_tf"] == vse_tf.__version__
    assert found["python"]
    assert len(found["settings_sha256"]) == len(found["data_sha256"]) == 64
    assert found["data"] == {"train": 64, "val": 20, "test": 20, "hard": 20}
    assert "git" in found
    # The checkpoints carry what continuing compares.
    for path in run.glob("checkpoints/step-*/position.json"):
        progress = json.loads(path.read_text())["progress"]
        assert progress["data_sha256"] == found["data_sha256"]
        assert {"seed", "settings_sha256", "epochs", "patience", "rows", "stopped"} <= progress.keys()


def test_nothing_is_traced_twice(tmp_path, monkeypatch):
    traced, step, compiled = [], DualEncoder.train_step, plain_embedder._compiled

    def counted(tower):
        def call(inputs):
            before = function.experimental_get_tracing_count()
            vectors = function(inputs)
            traced.extend([tower.name] * (function.experimental_get_tracing_count() - before))
            return vectors

        function = compiled(tower)
        return call

    monkeypatch.setattr(DualEncoder, "train_step", lambda self, data: traced.append("step") or step(self, data))
    monkeypatch.setattr(plain_embedder, "_compiled", counted)
    train.main(arguments(tmp_path / "run"))
    # Of the captions, each batch has another length; of the images, the last batch has another size.
    assert sorted(traced) == ["image_tower", "step", "text_tower"]
