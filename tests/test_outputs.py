"""A place that cannot be written is found before anything is read, loaded or measured."""

import os
import tempfile
from pathlib import Path

import pytest

from vse_tf import check, embed, evaluate, export, pack, search, train
from vse_tf.errors import UserError

# Whatever has this name is where the command is to write.
FILES = {
    "evaluate": (evaluate.main, ["--run", "run", "--output"]),
    "errors": (evaluate.main, ["--run", "run", "--errors"]),
    "check": (check.main, ["--run", "run", "--page"]),
    "html": (search.main, ["dogs", "--index", "index", "--html"]),
    "picture": (search.main, ["dogs", "--index", "index", "--picture"]),
}
FOLDERS = {
    "train": (train.main, ["--train.run_dir"]),
    "embed": (embed.main, ["--run", "run", "--images", "photos", "--output"]),
    "merge": (embed.main, ["--merge", "index", "--output"]),
    "pack": (pack.main, ["--output"]),
    "export": (export.main, ["--run", "run", "--output"]),
    "onnx": (export.main, ["--run", "run", "--format", "onnx", "--output"]),
}
LONG = "n" * 300


@pytest.fixture
def place(monkeypatch):
    """A working directory in which nobody may write, with a run; what would be the work is an error."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run").mkdir()
        (folder / "run" / "config.yaml").write_text("train: {run_dir: unused}\n")
        (folder / "closed").mkdir(mode=0o555)
        (folder / "hidden").mkdir(mode=0o000)
        os.mkfifo(folder / "pipe")
        (folder / "file").touch()
        folder.chmod(0o755)
        monkeypatch.chdir(folder)
        for work in ("vse_tf.load", "vse_tf.training.trainer.read", "vse_tf.artifacts.index.Index.open"):
            monkeypatch.setattr(work, lambda *_, **__: pytest.fail("too late"))
        user = os.geteuid()
        try:
            if user == 0:
                # Nothing is closed to root.
                os.seteuid(65534)
            yield folder
        finally:
            os.seteuid(user)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("closed/x.html", "Permission denied; name another file"),
        ("closed", "not a regular file"),
        ("pipe", "not a regular file"),
        ("/dev/null", "not a regular file"),
        ("none/x.html", "the folder .* does not exist"),
        ("file/x.html", "the folder .* does not exist"),
        (f"{LONG}.html", "File name too long"),
        ("hidden/x.html", "Permission denied"),
    ],
)
def test_a_file_that_cannot_be_written(place, name, output, reason):
    main, argv = FILES[name]
    with pytest.raises(UserError, match=rf"^{argv[-1]}: .*{reason}") as error:
        main([*argv, output])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("closed", "Permission denied; mend that, or name another folder"),
        ("closed/new", "Permission denied"),
        ("file", "is not a folder|something that is not a run"),
        ("pipe/new", "is not a folder"),
        (LONG, "File name too long|is too long for a path"),
        ("hidden/new", "Permission denied"),
    ],
)
def test_a_folder_that_cannot_be_written(place, name, output, reason):
    main, argv = FOLDERS[name]
    with pytest.raises(UserError, match=rf"{argv[-1].removeprefix('--')}: .*{reason}") as error:
        main([*argv, output])
    assert "\n" not in str(error.value)
    assert not list(Path(output).parent.glob(".*.tmp"))
