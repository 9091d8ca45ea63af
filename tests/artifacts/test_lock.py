"""One process per run folder."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.tiny import arguments, tiny_settings
from vse_tf import train
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.errors import UserError

HOLD = (
    "import sys; from vse_tf.artifacts.run_folder import RunFolder\n"
    "run = RunFolder(sys.argv[1]); run.lock(); print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path, holder):
    with pytest.raises(UserError, match=rf"train\.run_dir: another process \({holder.pid}\) is training in {tmp_path}"):
        RunFolder(tmp_path).lock()
    holder.kill()
    holder.wait()
    run = RunFolder(tmp_path)
    run.lock()
    run.lock()
    with pytest.raises(UserError, match=str(os.getpid())):
        RunFolder(tmp_path).lock()
    run.unlock()
    RunFolder(tmp_path).lock()


def test_the_command_is_refused_before_it_reads_anything(tmp_path, holder, monkeypatch):
    (tmp_path / "config.yaml").write_text("train: {run_dir: unused}\n")
    monkeypatch.setattr("vse_tf.training.trainer.read", lambda *_, **__: pytest.fail("read the data"))
    with pytest.raises(UserError, match="another process"):
        train.main(arguments(tmp_path, train__resume="force"))


def test_a_run_begun_in_the_meantime_is_not_overwritten(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "config.yaml").write_text("train: {epochs: 7}\n")
    with pytest.raises(UserError, match="in the meantime"):
        folder.create(tiny_settings(tmp_path), begun=False)
    assert "7" in folder.config.read_text()
    folder.unlock()


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "diary.txt")
    with pytest.raises(UserError, match="cannot write"):
        RunFolder(tmp_path / "run").lock()
    assert (tmp_path / "diary.txt").read_text() == "mine"


def test_a_read_only_run_folder_is_one_line():
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run.mkdir()
        (run / "config.yaml").write_text("train: {run_dir: unused}\n")
        Path(folder).chmod(0o755)
        run.chmod(0o555)
        user = os.geteuid()
        try:
            if user == 0:
                # Nothing is read-only to root.
                os.seteuid(65534)
            with pytest.raises(UserError, match=r"train\.run_dir: cannot write to .*run: Permission denied; mend"):
                train.main(arguments(run, train__resume="force"))
            with pytest.raises(UserError, match=r"train\.run_dir: cannot write to .*new: Permission denied"):
                RunFolder(run / "new").create(tiny_settings(run), begun=False)
        finally:
            os.seteuid(user)
            run.chmod(0o755)
