import numpy as np
import tensorflow as tf

from vse_tf.training.tensorboard import purge, write_projector


def write_steps(folder, count):
    writer = tf.summary.create_file_writer(str(folder))
    for step in range(count):
        with writer.as_default(step):
            tf.summary.scalar("loss", 1.0 / (step + 1))
    writer.close()


def steps(folder):
    found = []
    for file in sorted(folder.glob("events.*")):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            found += [event.step for value in event.summary.value if value.tag == "loss"]
    return found


def test_purge_drops_what_lies_past_the_checkpoint(tmp_path):
    write_steps(tmp_path, 10)
    assert steps(tmp_path) == list(range(10))
    purge(tmp_path, 6)
    assert steps(tmp_path) == list(range(7))
    (file,) = tmp_path.iterdir()
    contents, changed = file.read_bytes(), file.stat().st_mtime_ns
    purge(tmp_path, 6)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == (contents, changed)
    purge(tmp_path, -1)
    assert not list(tmp_path.iterdir())


def test_purge_repairs_a_file_cut_in_the_middle_of_a_record(tmp_path):
    write_steps(tmp_path, 5)
    (file,) = tmp_path.glob("events.*")
    file.write_bytes(file.read_bytes()[:-7])
    purge(tmp_path, 100)
    assert steps(tmp_path) == list(range(4))


def test_purge_of_nothing_does_nothing(tmp_path):
    purge(tmp_path / "absent", 0)
    assert not list(tmp_path.iterdir())


def test_a_projector_without_thumbnails_has_points(tmp_path):
    write_projector(tmp_path, None, ["a\tb\nc", "\u00e9"], np.eye(2), -np.eye(2))
    assert (tmp_path / "projector" / "metadata.tsv").read_text(encoding="utf-8").splitlines() == [
        "label\tmodality",
        "a b c\timage",
        "\u00e9\timage",
        "a b c\tcaption",
        "\u00e9\tcaption",
    ]
    vectors = np.fromfile(tmp_path / "projector" / "vectors.bytes", "float32").reshape(4, 2)
    np.testing.assert_allclose(vectors, [[1, 0], [0, 1], [-1, 0], [0, -1]], atol=1e-4)
    assert "sprite" not in (tmp_path / "projector_config.pbtxt").read_text()


def test_points_are_not_written_through_a_strangers_link(tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    (tmp_path / "logs" / "projector").mkdir(parents=True)
    for name in ("projector/vectors.bytes", "projector/metadata.tsv", "projector_config.pbtxt"):
        (tmp_path / "logs" / name).symlink_to(tmp_path / "diary.txt")
    write_projector(tmp_path / "logs", None, ["a"], np.eye(1), np.eye(1))
    assert (tmp_path / "diary.txt").read_text() == "mine"
