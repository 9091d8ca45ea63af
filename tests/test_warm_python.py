"""The warm Python is a Python: its own process, folder, environment, files, exit code, signals."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.warm_python import warm_python

SAYS = (
    "import os, sys, json; loaded = sorted(sys.modules.keys() & {'tensorflow', 'vse_tf'});"
    "print(json.dumps([os.getcwd(), os.environ['HERE'], sys.argv, sys.path[:2], loaded, sys.stdin.read()]))"
)


def run(*command, **options):
    return subprocess.run([*warm_python(), *command], capture_output=True, text=True, check=False, **options)


def test_a_command_has_its_own_of_everything(tmp_path):
    environment = {**os.environ, "HERE": "ä", "PYTHONPATH": "/x"}
    done = run("-c", SAYS, "--a", "b", cwd=tmp_path, env=environment, input="typed")
    said = [str(tmp_path), "ä", ["-c", "--a", "b"], ["", "/x"], ["tensorflow"], "typed"]
    assert (json.loads(done.stdout), done.stderr, done.returncode) == (said, "", 0)


def test_it_ends_as_the_command_does():
    assert [run("-c", f"raise SystemExit({code})").returncode for code in (0, 2, 130)] == [0, 2, 130]
    failed = run("-c", "raise ValueError('why')")
    assert failed.returncode == 1 and failed.stderr.endswith("ValueError: why\n")
    for number in (signal.SIGKILL, signal.SIGTERM):
        assert run("-c", f"import os; os.kill(os.getpid(), {int(number)})").returncode == -number


def test_no_two_draw_the_same():
    assert (
        len({run("-c", "import random, numpy; print(random.random(), numpy.random.rand())").stdout for _ in "ab"}) == 2
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 3), (signal.SIGKILL, -signal.SIGKILL)])
def test_signals_reach_it(tmp_path, number, code):
    program = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3));"
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([*warm_python(), "-c", program], stdout=subprocess.PIPE, text=True) as process:
        fork = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(30) == code
    for _ in range(100):
        if not Path(f"/proc/{fork}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("it is still there")
