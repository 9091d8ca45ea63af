"""The suite collects the same tests everywhere: xdist runs nothing where two of its workers differ in one id."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.warm_python import warm_python

ROOT = Path(__file__).parent.parent
# Of gzip's output, of zlib's, of a PNG: bytes that depend on the time or on a library's version.
PACKED = ("\\x1f\\x8b", "x\\x9c", "IHDR")


def collecting(python, **environment):
    command = [*python, "-m", "pytest", "-n0", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", ""]
    command += ["-o", "addopts=--strict-markers"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def test_ids_depend_on_no_time_hash_process_or_machine(tmp_path):
    settings = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    # Its hash seed is a random one.
    first = collecting(warm_python(), **{**os.environ, **settings})
    # A file's time is in whole seconds in gzip's header.
    time.sleep(1.1)
    bare = {"HOME": os.environ.get("HOME", "/"), "PATH": str(tmp_path), "TMPDIR": str(tmp_path), "TZ": "Asia/Tokyo"}
    second = collecting([sys.executable], **bare, **settings, PYTHONHASHSEED="2")
    told = [process.communicate()[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), told
    one, other = ([line for line in text.splitlines() if "::" in line] for text in told)
    assert len(one) > 1000
    assert [pair for pair in zip(one, other, strict=False) if pair[0] != pair[1]] == []
    assert len(one) == len(other)
    assert [line for line in one if any(start in line for start in PACKED)] == []
