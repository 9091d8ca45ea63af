"""Embedding on Dask worker processes that share nothing but the bucket, one of them killed in the middle."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.extras
ROOT = Path(__file__).parents[2]
# A worker that is killed when it has begun its second span: at that time the other ones are at work too.
WORKER = "import sys; from distributed.cli.dask_worker import main; main()"


def process(code, *arguments, home, **environment):
    """A process with an empty home and working folder."""
    home.mkdir(parents=True)
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    own |= {"HOME": str(home), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2", **environment}
    with (home.parent / f"{home.name}.log").open("w") as log:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.Popen(command, cwd=home, env=own, stdout=log, stderr=log)


def wait_for(what, seconds=240):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def test_workers_make_the_index_of_the_local_command(bucket, packed, tiny_run, tmp_path):
    for name in ("apache_beam", "distributed"):
        pytest.importorskip(name)
    bucket.put_folder(packed, "shards")
    bucket.put_folder(tiny_run, "run")
    environment = bucket.environment
    scheduler_file = tmp_path / "scheduler.json"
    embed = "import sys; from vse_tf.__main__ import console; sys.argv[0] = 'vse-tf'; console()"
    command = ["embed", "--run", "s3://photos/run", "--images", "s3://photos/shards", "--shard_rows", "16"]
    with contextlib.ExitStack() as stack:

        def start(*arguments, **more):
            started = process(*arguments, **more, **environment)
            stack.callback(started.kill)
            return started

        start(
            "from distributed.cli.dask_scheduler import main; main()",
            *("--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", scheduler_file),
            home=tmp_path / "scheduler",
        )
        wait_for(lambda: scheduler_file.exists() and scheduler_file.read_text().endswith("}"))
        address = json.loads(scheduler_file.read_text())["address"]
        workers = [
            start(WORKER, address, "--nthreads", 1, "--no-nanny", "--no-dashboard", home=tmp_path / f"worker{number}")
            for number in range(2)
        ]
        runner = ["--runner", "DaskRunner", f"--runner_options=--dask_client_address={address}"]
        by_workers = start(embed, *command, "--output", "s3://photos/a.index", *runner, home=tmp_path / "command")
        # The second result is there: both load the model, or work.
        wait_for(lambda: len(bucket.names("a.index/.embed/part-")) >= 2 or by_workers.poll() is not None)
        workers[0].send_signal(signal.SIGKILL)
        assert by_workers.wait(300) == 0, (tmp_path / "command.log").read_text()[-3000:]
        local = start(embed, *command, "--output", "s3://photos/b.index", home=tmp_path / "local")
        assert local.wait(300) == 0, (tmp_path / "local.log").read_text()[-3000:]
    made, wanted = bucket.folder("a.index"), bucket.folder("b.index")
    assert len(json.loads(wanted["manifest.json"])["shards"]) > 5
    assert made == wanted
    for number in range(2):
        names = {path.name for path in (tmp_path / f"worker{number}").iterdir()}
        assert names <= {".cache", ".config", ".keras", "dask-scratch-space"}, names
        assert "the-secret" not in (tmp_path / f"worker{number}.log").read_text()
