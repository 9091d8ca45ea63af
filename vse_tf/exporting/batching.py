"""TensorFlow Serving's `batching_params.pbtxt`, checked by the server's own rules. No TensorFlow is imported here.

A server whose configured model cannot be loaded does not start, so files that it would refuse are refused here.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from google.protobuf.message import Message

from vse_tf.artifacts.versions import versions
from vse_tf.errors import UserError
from vse_tf.files import file_errors, read_regular

# The server reads this file of the version folder when it loads the version.
FILE_NAME = "batching_params.pbtxt"
_LIMIT = 2**20
# tensorflow.serving.BatchingParameters (session_bundle_config.proto), which is not in tensorflow-serving-api. The text
# format identifies fields by name, so their numbers do not matter.
_FIELDS = {
    "max_batch_size": "Int64Value",
    "batch_timeout_micros": "Int64Value",
    "max_enqueued_batches": "Int64Value",
    "num_batch_threads": "Int64Value",
    "thread_pool_name": "StringValue",
    "enable_large_batch_splitting": "BoolValue",
    "max_execution_batch_size": "Int64Value",
}
_DEFAULT_SIZE = 1000


def read_batching(path: str | Path) -> bytes:
    """Read a batching file and check that the server accepts it.

    Args:
        path: a BatchingParameters message in text form.

    Raises:
        UserError: it cannot be read, or the server would refuse it.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile() as file:
        ...     _ = Path(file.name).write_text("max_batch_size { value: 64 }")
        ...     read_batching(file.name)
        b'max_batch_size { value: 64 }'
    """
    with file_errors(f"--batching: {path}"):
        contents = read_regular(path, _LIMIT)
    try:
        check(parse(contents))
    except ValueError as error:
        raise UserError(f"--batching: {path}: {error}") from None
    return contents


def batching_of_newest(model: Path) -> Path | None:
    """The batching file of a model's newest version, if it has one.

    Args:
        model: the model's folder, which holds its versions.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as model:
        ...     for version in ("9", "10"):
        ...         Path(model, version).mkdir()
        ...         Path(model, version, "batching_params.pbtxt").touch()
        ...     batching_of_newest(Path(model))
        PosixPath('/.../10/batching_params.pbtxt')
    """
    path = model / str(max(versions(model), default=0)) / FILE_NAME
    return path if path.is_file() else None


def parse(contents: bytes) -> Message:
    """Parse the text of a batching file.

    Raises:
        ValueError: it is not such a message; the error names the line.
    """
    try:
        return text_format.Parse(contents.decode("utf-8"), _message_class()())
    except UnicodeDecodeError:
        raise ValueError("not a text file in UTF-8") from None
    except text_format.ParseError as error:
        raise ValueError(f"not TensorFlow Serving's batching parameters: line {error}") from None


def check(found: Message) -> None:
    """Refuse parameters that the server refuses when it loads a version.

    Args:
        found: the message.

    Raises:
        ValueError: the server would not load a model with them.
    """
    size = found.max_batch_size.value if found.HasField("max_batch_size") else _DEFAULT_SIZE
    splits = found.enable_large_batch_splitting.value
    executed = found.max_execution_batch_size.value if found.HasField("max_execution_batch_size") else size
    allowed = list(found.allowed_batch_sizes)
    for name in ("max_batch_size", "max_execution_batch_size", "max_enqueued_batches", "num_batch_threads"):
        if found.HasField(name) and not 1 <= getattr(found, name).value < 2**31:
            raise ValueError(f"{name} is {getattr(found, name).value}; give at least 1")
    if found.batch_timeout_micros.value < 0:
        raise ValueError(f"batch_timeout_micros is {found.batch_timeout_micros.value}; give at least 0")
    if splits and not (found.HasField("max_batch_size") or found.HasField("max_execution_batch_size")):
        raise ValueError(
            "enable_large_batch_splitting needs max_execution_batch_size, the largest number of inputs in a batch"
        )
    if splits and executed > size:
        raise ValueError(f"max_execution_batch_size is {executed}, above max_batch_size, which is {size}")
    if allowed and (allowed[0] < 1 or sorted(set(allowed)) != allowed):
        raise ValueError(f"allowed_batch_sizes are {allowed}; give increasing numbers above 0")
    if allowed and (allowed[-1] != size or (splits and allowed[-1] != executed)):
        more = f" and max_execution_batch_size, which is {executed}" if splits else ""
        raise ValueError(
            f"allowed_batch_sizes ends with {allowed[-1]} and has to end with max_batch_size, which is {size}{more}; "
            "leave it out, or make them equal"
        )


def _message_class() -> type[Message]:
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="batching.proto", package="tensorflow.serving", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    message = file.message_type.add(name="BatchingParameters")
    for number, (name, wrapper) in enumerate(_FIELDS.items(), 1):
        message.field.add(
            name=name,
            number=number,
            label=kind.LABEL_OPTIONAL,
            type=kind.TYPE_MESSAGE,
            type_name=f".google.protobuf.{wrapper}",
        )
    message.field.add(name="allowed_batch_sizes", number=101, label=kind.LABEL_REPEATED, type=kind.TYPE_INT64)
    message.field.add(name="pad_variable_length_inputs", number=102, label=kind.LABEL_OPTIONAL, type=kind.TYPE_BOOL)
    pool = descriptor_pool.DescriptorPool()
    for each in (wrappers_pb2.DESCRIPTOR.serialized_pb, file.SerializeToString()):
        pool.AddSerializedFile(each)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.BatchingParameters"))
