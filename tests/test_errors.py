"""What errors say in one line."""

import gc

import pytest
import tensorflow as tf

from vse_tf.errors import run_command, shell_path, tensorflow_reason

TRACE = "Graph execution error:\n\nDetected at node cond/DecodeJpeg defined at (most recent call last):\n"
TRACE += '  File "a.py", line 9, in <module>\n\n  File "b.py", line 7, in g\n    return decode(x)\n\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{function_node __wrapped__DecodeJpeg_device_/job:x:0}} it failed. [Op:DecodeJpeg]", "it failed."),
        ("{{function_node __inference_7}} it failed.\n\t [[{{function_node c}}{{node d}}]] [Op:f]", "it failed."),
        (f"{TRACE}it failed.\n\t [[{{{{node d}}}}]] [Op:f]", "it failed."),
        (
            "Graph execution error:\n\nDetected at node d\n<stack traces unavailable>\nit failed.",
            "it failed.",
        ),
        ("2 root error(s) found.\n  (0) INVALID_ARGUMENT: it failed.\n\t [[{{node a}}]]\n  (1) X: no", "it failed."),
        ("it failed.", "it failed."),
        ("", "ValueError"),
    ],
)
def test_the_reason_of_a_tensorflow_error(text, reason):
    assert tensorflow_reason(ValueError(text)) == reason


def test_reasons_of_operations_that_fail():
    @tf.function
    def nested(contents):
        return tf.cond(
            tf.size(contents) > 0, lambda: tf.shape(tf.io.decode_jpeg(contents)), lambda: tf.zeros(3, tf.int32)
        )

    @tf.function
    def checked(contents):
        with tf.control_dependencies([tf.debugging.Assert(tf.size(contents) > 1, ["too few"])]):
            return tf.identity(contents)

    for function in (tf.io.decode_jpeg, nested, checked):
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            function(tf.constant(b"\xff\xd8\xff"))
        reason = tensorflow_reason(caught.value)
        assert reason.startswith(("jpeg::", "Invalid JPEG", "assertion failed: [too few]", "Input is")), reason
        assert not set("{}\n") & set(reason)


def test_paths_can_be_pasted():
    assert shell_path("runs/a") == "runs/a"
    assert shell_path("My Drive/it's") == "'My Drive/it'\"'\"'s'"
    assert "\x1b" not in shell_path("a\x1b[2Jb")


def test_a_command_ends_without_a_last_collection():
    try:
        run_command(lambda: None)
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
