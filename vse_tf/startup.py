"""Starts TensorFlow, shown as a phase and without the log lines that say nothing to a user."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What TensorFlow logs on every machine without a GPU. A warning that libraries of a GPU are missing is none of it.
NOISE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog"
    rb"|(I\d{4} |[\d-]+ [\d:.]+: I )"
    rb"|(W\d{4} |[\d-]+ [\d:.]+: W )(?!.*dlopen)"
    rb"|(E\d{4} |[\d-]+ [\d:.]+: E ).*(Unable to register cu|already been registered)"
    rb"|To enable the following instructions"
    # Of processors without AVX-512: an operation on integers is TensorFlow's own.
    rb"|(E\d{4} |[\d-]+ [\d:.]+: E ).*oneDNN supports DT_"
    # Apache Beam's worker processes, before they read how much they are to log.
    rb"|INFO:__main__:|WARNING:root:apitools"
)
NO_GPU = re.compile(rb"(E\d{4} |[\d-]+ [\d:.]+: E ).*failed call to cuInit")
NVIDIA = Path("/proc/driver/nvidia")


@contextmanager
def starting_tensorflow(virtual_cpus: int = 0) -> Iterator[None]:
    """Inside, TensorFlow is imported; its log lines without content are left out.

    With `TF_CPP_MIN_LOG_LEVEL` in the environment, everything is shown that TensorFlow writes.

    Args:
        virtual_cpus: `distribution.virtual_cpus`; devices must be split before the first operation.

    Example:
        >>> with starting_tensorflow():
        ...     from math import sqrt  # or a module that imports TensorFlow
    """
    from vse_tf.display import Phase  # noqa: PLC0415 (the filter's process has no package to import)

    if "tensorflow" in sys.modules or "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        with Phase("starting TensorFlow"):
            yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    with filtered_stderr(), Phase("starting TensorFlow"):
        yield
        if tf := sys.modules.get("tensorflow"):
            # What the look for GPUs and the first operation of some kinds log comes inside too.
            tf.config.list_physical_devices()
            if not virtual_cpus and "TF_CONFIG" not in os.environ:
                with tf.device("CPU:0"):
                    tf.transpose([[True]])


@contextmanager
def filtered_stderr() -> Iterator[None]:
    """Let what C++ code and started processes write to standard error pass through a filter.

    What this process's Python writes goes around it.

    The filter is a process, so that the last words of an aborted process arrive too.
    """
    from vse_tf.display import in_notebook  # noqa: PLC0415 (as above)

    sys.stderr.flush()
    try:
        # In a notebook, Python writes elsewhere, and the kernel shows what arrives here.
        is_ours = in_notebook() or sys.stderr.fileno() == 2
        process = subprocess.Popen([sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE) if is_ours else None
    except (OSError, ValueError):  # no process to be had, or a standard error without a file
        process = None
    if process is None or process.stdin is None:
        yield
        return
    original, python = os.dup(2), sys.stderr
    if not in_notebook():
        sys.stderr = io.TextIOWrapper(os.fdopen(os.dup(2), "wb", 0), python.encoding, python.errors, write_through=True)
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)
        if sys.stderr is not python:
            sys.stderr.close()
            sys.stderr = python
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)


def _filter() -> None:
    """Copy standard input to standard error without the noise."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    rest = b""
    while part := os.read(0, 2**16):
        # A bar ends no line: it begins the same one again.
        *lines, rest = re.split(rb"(?<=[\r\n])", rest + part)
        _pass_on(lines)
    _pass_on([rest])


def _pass_on(lines: list[bytes]) -> None:
    for line in lines:
        if not NOISE.match(line) and (NVIDIA.exists() or not NO_GPU.match(line)):
            sys.stderr.buffer.write(line)
    sys.stderr.buffer.flush()


if __name__ == "__main__":
    _filter()
