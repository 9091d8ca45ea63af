"""What commands show while they work, in a file and on a pseudo-terminal."""

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.tiny import arguments
from vse_tf import display, serve
from vse_tf.display import Phase, duration, in_notebook, part, phase_if, say, track
from vse_tf.startup import NO_GPU, NOISE

SILENCE = 5.0
"""Seconds without output that fail. A phase speaks each second; the rest is for a busy machine."""


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(display, "DELAY", 0.02)
    monkeypatch.setattr(display, "TICK", 0.02)


class Terminal:
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def test_a_file_gets_one_line_for_each_phase(fast, capsys):
    with Phase("reading"), part("checking images"):
        time.sleep(0.1)
    with Phase("encoding", 3, "images") as encoding:
        time.sleep(0.1)
        encoding.update(3)
    with Phase("short"):
        pass
    assert capsys.readouterr().err == "reading\nencoding: 3 images\n"


def test_a_long_phase_reports_its_count_now_and_then(fast, capsys, monkeypatch):
    monkeypatch.setattr(display, "REPORT", 0.2)
    with Phase("encoding", 9, "images") as encoding:
        time.sleep(0.1)
        encoding.update(3)
        time.sleep(0.2)
    assert re.fullmatch(r"encoding: 9 images\nencoding: 3 of 9 images, \d s left\n", capsys.readouterr().err)


def test_a_terminal_names_the_part_and_its_clock_moves(fast, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(sys, "stdout", terminal)
    with Phase("training", 4, "steps") as training:
        time.sleep(0.1)
        training.update()
        with part("validation"):
            time.sleep(0.1)
        say("epoch 1")
        training.update(3)
        time.sleep(0.1)
    assert terminal.text.count("training: validation:  25%") > 1
    assert "\repoch 1\n" in terminal.text
    assert terminal.text.rstrip().endswith("4/4 steps [00:00]")


def test_what_is_done_while_the_bar_is_made_counts(fast, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(sys, "stdout", terminal)
    new_bar = Phase._new_bar

    def slow(phase):
        bar = new_bar(phase)
        phase.update()
        return bar

    monkeypatch.setattr(Phase, "_new_bar", slow)
    with Phase("adding", 2, "numbers") as adding:
        time.sleep(0.1)
        adding.update()
    assert terminal.text.rstrip().endswith("2/2 numbers [00:00]")


def test_notebooks_are_known_by_their_shell(monkeypatch):
    notebook = type("ZMQInteractiveShell", (), {})
    colab = type("Shell", (notebook,), {})
    for shell, expected in ((notebook(), True), (colab(), True), (object(), False), (None, False)):
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert in_notebook() is expected


# A notebook's kernel without ipywidgets, and with what the filter sees of it.
NOTEBOOK = """
import io, os, sys, types
sys.modules["ipywidgets"] = None
shell = type("ZMQInteractiveShell", (), {"config": {"IPKernelApp": {}}})()
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell)
sys.stderr = io.StringIO()
from vse_tf.startup import starting_tensorflow
with starting_tensorflow():
    os.write(2, b"I0000 noise\\nan error of a library\\n")
print(sys.stderr.getvalue(), end="", file=sys.__stderr__)
"""


def test_a_notebook_starts_without_noise():
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", NOTEBOOK]
    found = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=True).stderr
    assert found == "an error of a library\n"


def test_a_served_model_loads_under_its_name(fast, tiny_models, capsys, caplog):
    serve._load_version(1, tiny_models / "text_tower" / "1")
    assert capsys.readouterr().err.endswith("loading text_tower\n")
    assert not caplog.messages


def test_an_error_leaves_no_phase_open(fast, capsys):
    with pytest.raises(KeyError), Phase("training"):
        Phase("first step").__enter__()
        raise KeyError
    assert not display._open
    with Phase("reading"):
        time.sleep(0.1)
    assert capsys.readouterr().err == "reading\n"


def test_what_is_not_shown_is_silent(fast, capsys):
    with phase_if(False, "encoding", 2, "images") as encoding, part("loading"):
        time.sleep(0.1)
        encoding.update(2)
    assert list(track([1, 2], "adding", "numbers", shown=False)) == [1, 2]
    assert encoding.done == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (101, "2 min"), (3600, "60 min"), (8000, "2 h 13 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


NOISY = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795725626.007559   16097 cudart_stub.cc:31] Could not find cuda drivers on your machine
W0000 00:00:1795725626.007559   16097 computation_placer.cc:177] computation placer already registered.
E0000 00:00:1795725626.007559   16097 cuda_dnn.cc:8579] Unable to register cuDNN factory: Attempting to register
2026-01-01 10:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on.
E0000 00:00:1795783105.523514   30127 util.cc:131] oneDNN supports DT_BOOL only on platforms with AVX-512. Falling back
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow
INFO:__main__:Logging handler created.
WARNING:root:apitools not found, and bigquery client libraries are not available
"""
REAL = """\
W0000 00:00:1795725626.007559   16097 gpu_device.cc:2344] Cannot dlopen some GPU libraries.
E0000 00:00:1795725626.007559   16097 cuda_executor.cc:1] out of memory
F0000 00:00:1795725626.007559   16097 cpu_feature_guard.cc:37] The TensorFlow library was compiled to use AVX
Traceback (most recent call last):
"""


def test_only_noise_is_left_out():
    for line in NOISY.splitlines():
        assert NOISE.match(line.encode()), line
    for line in REAL.splitlines():
        assert not NOISE.match(line.encode()) and not NO_GPU.match(line.encode()), line
    assert NO_GPU.match(b"E0000 00:00:17.2   16097 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR (303)")


STARTING = """
import os, sys
from vse_tf.startup import starting_tensorflow
with starting_tensorflow():
    os.write(2, b"I0000 noise\\nan error of a library\\n 10 % of a bar\\r 20 % of a bar\\rno line break")
    print("of Python", file=sys.stderr)
    {end}
print("after", file=sys.stderr)
"""


@pytest.mark.parametrize(("end", "last"), [("", "after"), ("os.abort()", ""), ("1 / 0", "ZeroDivisionError")])
def test_other_lines_of_the_start_arrive_also_of_an_abort(end, last):
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", STARTING.format(end=end)]
    found = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False).stderr
    for expected in ("an error of a library", " 10 % of a bar", "20 % of a bar", "no line break", "of Python", last):
        assert expected in found
    assert "noise" not in found
    asked = environment | {"TF_CPP_MIN_LOG_LEVEL": "0"}
    assert "noise" in subprocess.run(command, env=asked, stderr=subprocess.PIPE, text=True, check=False).stderr


FIRST_OPERATIONS = """
from vse_tf.startup import starting_tensorflow
with starting_tensorflow():
    import tensorflow as tf
tf.transpose(tf.constant([[1, 2]], tf.int64))
"""


def test_operations_write_no_line_of_what_the_processor_lacks():
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", FIRST_OPERATIONS]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "oneDNN" not in found.stderr


def recorded(command: list[str]) -> tuple[str, float, str]:
    """What a command writes on a terminal, its longest silence, and what it had written before that."""
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    main, other = pty.openpty()
    process = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, env=environment)
    os.close(other)
    # The interpreter itself starts before anything can be shown.
    written, silence, before, last = b"", 0.0, b"", time.monotonic() + 3
    while True:
        try:
            chunk = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        now = time.monotonic()
        if now - last > silence:
            silence, before = now - last, written[-100:]
        written, last = written + chunk, now
    os.close(main)
    assert process.wait() == 0, written.decode()
    return written.decode(), silence, before.decode(errors="replace")


def test_a_run_is_never_silent_and_says_what_it_is(tmp_path: Path):
    command = [sys.executable, "-m", "vse_tf.train", *arguments(tmp_path / "run", train__projector=5, train__epochs=2)]
    text, silence, before = recorded(command)
    assert silence < SILENCE, before
    assert "absl" not in text and "cuda" not in text.lower()
    for expected in (
        "starting TensorFlow",
        "  train        64 images, 320 captions",
        "image encoder  cnn: 2,608 trainable parameters",
        "2 epochs of 4 steps of 16 pairs",
        f"run folder     {tmp_path / 'run'}: 1 MB",
        "training: first step:",
        " s left]",
        "epoch 2/2",
        "  chance ",
    ):
        assert expected in text, expected


def test_a_run_in_a_file_has_no_moving_lines(tmp_path: Path):
    command = [sys.executable, "-m", "vse_tf.train", *arguments(tmp_path / "run", train__epochs=6)]
    found = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout
    assert "\r" not in found and "|" not in found.partition("image to text")[0]
    lines = found.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch ")] == [f"{n}/6" for n in range(1, 7)]
    assert sum(line.startswith("training: 24 steps") for line in lines) == 1
    assert any(re.fullmatch(r"\d+ s left after 20 steps", line) for line in lines), lines
