"""Batching files: what tensorflow_model_server 2.20.0 loads, and what keeps it from starting.

The server's rules, by upstream source:
- `tensorflow_serving/servables/tensorflow/bundle_factory_util.cc`, WrapSessionForBatching: the last of
  allowed_batch_sizes equals max_batch_size (1000 when it is left out), or "Last entry in allowed_batch_sizes must match
  max_batch_size".
- `tensorflow_serving/batching/batching_session.cc`, CreateBasicBatchingSession: with enable_large_batch_splitting
  they increase, and the last one equals max_execution_batch_size.
- `tensorflow/core/kernels/batching_util/shared_batch_scheduler.h`, Create and AddQueue: at least one thread, limits
  above 0, a timeout of at least 0, max_batch_size not below max_execution_batch_size.
"""

import os

import pytest

from vse_tf.errors import UserError
from vse_tf.exporting.batching import FILE_NAME, batching_of_newest, read_batching

SPLIT = "enable_large_batch_splitting { value: true }"
# The shape that this project once shipped: refused by every version of the server since 2.18.
REFUSED = (
    f"{SPLIT} max_batch_size {{ value: 1024 }} max_execution_batch_size {{ value: 32 }} allowed_batch_sizes: [8, 32]"
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "batching_params.pbtxt"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# a comment\nmax_batch_size { value: 8 }",
        "max_batch_size: { value: 8 } allowed_batch_sizes: 4 allowed_batch_sizes: 8",
        "allowed_batch_sizes: [10, 1000]",
        f"{SPLIT} max_batch_size {{ value: 1024 }} max_execution_batch_size {{ value: 32 }}",
        f"{SPLIT} max_batch_size {{ value: 32 }} max_execution_batch_size {{ value: 32 }} allowed_batch_sizes: [8, 32]",
        f"{SPLIT} max_batch_size {{ value: 32 }} allowed_batch_sizes: [32]",
        f"{SPLIT} max_execution_batch_size {{ value: 8 }}",
        "pad_variable_length_inputs: true thread_pool_name { value: 'x' } num_batch_threads { value: 2 }",
    ],
    ids=["empty", "comment", "sizes", "default", "split", "equal", "one", "executed", "pad"],
)
def test_what_the_server_loads_passes(file, text):
    file.write_text(text)
    assert read_batching(file) == text.encode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            REFUSED,
            "ends with 32 and has to end with max_batch_size, which is 1024 and max_execution_batch_size, which is 32;",
        ),
        ("max_batch_size { value: 16 } allowed_batch_sizes: [4, 8]", "ends with 8 .* which is 16; leave it out"),
        ("allowed_batch_sizes: [4, 8]", "which is 1000"),
        (
            f"{SPLIT} max_batch_size {{ value: 32 }} max_execution_batch_size {{ value: 8 }} allowed_batch_sizes: 32",
            "8",
        ),
        ("max_batch_size { value: 8 } allowed_batch_sizes: [8, 4, 8]", r"\[8, 4, 8\]; give increasing"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: [0, 8]", "above 0"),
        (
            f"{SPLIT} max_batch_size {{ value: 8 }} max_execution_batch_size {{ value: 9 }}",
            "is 9, above max_batch_size",
        ),
        (f"{SPLIT}", "needs max_execution_batch_size"),
        ("max_batch_size { value: 0 }", "max_batch_size is 0; give at least 1"),
        ("max_enqueued_batches { value: -1 }", "max_enqueued_batches is -1"),
        ("num_batch_threads { value: 0 }", "num_batch_threads is 0"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros is -1"),
        ("max_batch { value: 8 }", "line 1:1 : .*max_batch"),
        ("max_batch_size: 8", "line 1:"),
        ("max_batch_size { value: 99999999999999999999 }", "line 1:"),
        ("\x00", "line 1:"),
    ],
    ids=[
        "shipped",
        "sizes",
        "default",
        "executed",
        "falling",
        "zero",
        "above",
        "alone",
        "none",
        "queue",
        "threads",
        "timeout",
        "name",
        "kind",
        "huge",
        "nul",
    ],
)
def test_what_the_server_refuses_is_one_line(file, text, message):
    file.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_batching(file)
    assert str(caught.value).startswith(f"--batching: {file}: ")
    assert "\n" not in str(caught.value)


def test_what_is_no_text_file_is_one_line(file, tmp_path):
    file.write_bytes(b"\xff\xfe")
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (file, "UTF-8"),
        (tmp_path, "a folder"),
        (tmp_path / "pipe", "a pipe"),
        (tmp_path / "no", "No such"),
    ):
        with pytest.raises(UserError, match=message):
            read_batching(path)
    with file.open("wb") as large:
        large.truncate(2**30)
    with pytest.raises(UserError, match="more than the limit"):
        read_batching(file)


def test_the_newest_version_is_asked_for_its_file(tmp_path):
    assert batching_of_newest(tmp_path / "none") is None
    for version in ("2", "10"):
        (tmp_path / version).mkdir()
    (tmp_path / "2" / FILE_NAME).touch()
    assert batching_of_newest(tmp_path) is None
    (tmp_path / "10" / FILE_NAME).touch()
    assert batching_of_newest(tmp_path) == tmp_path / "10" / FILE_NAME
