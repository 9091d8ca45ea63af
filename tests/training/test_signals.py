"""Signals: at once, deferred, twice."""

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest
import tensorflow as tf

from vse_tf.errors import Interrupted, run_command
from vse_tf.training.signals import SignalHandler


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "Ctrl-C", 130)])
def test_a_signal_leaves_at_once_and_the_handlers_come_back(number, name, code):
    # Tests that were started in the background may ignore Ctrl-C.
    outside = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(Interrupted, match=f"stopped by {name}") as stop, SignalHandler():
            send(number)
        assert stop.value.code == code
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, outside)


def test_a_deferred_signal_waits_for_the_check():
    done = []
    with pytest.raises(Interrupted), SignalHandler() as signals, signals.deferred():
        signals.check()
        send()
        done.append("the step")
        signals.check()
        done.append("more")
    assert done == ["the step"]


def test_inside_immediate_nothing_waits():
    done = []
    with pytest.raises(Interrupted), SignalHandler() as one, one.deferred(), one.immediate():
        done.append("measuring")
        send()
        done.append("more")
    assert done == ["measuring"]
    with pytest.raises(Interrupted), SignalHandler() as signals, signals.deferred():
        send()
        with signals.immediate():
            done.append("begun after the signal")
    assert done == ["measuring"]


def test_a_second_signal_ends_the_process_at_once():
    code = (
        "import os, signal, time; from vse_tf.training.signals import SignalHandler\n"
        "with SignalHandler() as signals, signals.deferred():\n"
        "    for _ in range(2): os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60); print('still here')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert found.returncode == -signal.SIGTERM
    assert found.stdout == ""


def test_a_signal_that_a_library_has_taken_is_taken_back():
    with pytest.raises(Interrupted), SignalHandler() as signals:
        signal.signal(signal.SIGTERM, lambda *_: None)
        send()
        signals.install()
        send()


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with SignalHandler() as signals:
            send(signal.SIGINT)
            signals.check()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_of_the_main_thread_nothing_is_touched():
    seen = []

    def work():
        with SignalHandler() as signals:
            seen.append(signal.getsignal(signal.SIGTERM))
            signals.check()

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize(
    ("raised", "code"), [(Interrupted(signal.SIGTERM, "saved\nat step 3"), 143), (KeyboardInterrupt(), 130)]
)
def test_a_command_ends_in_one_line_and_a_code(raised, code, capsys):
    def main():
        raise raised

    with pytest.raises(SystemExit) as stop:
        run_command(main)
    assert stop.value.code == code
    error = capsys.readouterr().err
    assert error.startswith("stopped by")
    assert error.count("\n") == 1


def test_a_full_disk_ends_any_command_in_one_line(capsys):
    def full():
        raise OSError(errno.ENOSPC, "x", "/tmp/some file")

    with pytest.raises(SystemExit) as stop:
        run_command(full)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: /tmp/some file: No space left on device; free some space and repeat\n"

    def full_for_tensorflow():
        raise tf.errors.ResourceExhaustedError(None, None, "logs/projector/sprite.png; No space left on device")

    with pytest.raises(SystemExit):
        run_command(full_for_tensorflow)
    assert capsys.readouterr().err == "error: No space left on device; free some space and repeat\n"

    def denied():
        raise PermissionError(errno.EACCES, "x")

    with pytest.raises(PermissionError):
        run_command(denied)
