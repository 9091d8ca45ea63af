"""Files that others made: pipes, devices, wrong sizes and headers."""

import io
import os
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vse_tf.files import open_array, open_regular, read_json, read_regular


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "socket", "missing", "loop", "nul"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "nul":
        path = Path("a\0b")
    with pytest.raises(OSError, match=r".") as caught:
        read_regular(path)
    assert caught.value.strerror
    if kind in ("pipe", "device", "folder"):
        assert caught.value.strerror == f"not a regular file but a {kind}"


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"contents")
    (tmp_path / "link").symlink_to("there")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"contents"


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**40)  # a sparse file
    with pytest.raises(OSError, match="more than the limit of 1000"):
        read_regular(path, limit=1000)


def test_no_descriptor_stays_open_after_a_refusal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(20):
        with pytest.raises(OSError):
            open_regular(tmp_path / "pipe")
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_deeply_nested_json_is_an_ordinary_error(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_bytes(b"[" * 200_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "deep.json")


@given(st.lists(st.integers(0, 4), max_size=3), st.sampled_from(["<f4", ">f8", "|u1", "<i8"]), st.booleans())
def test_an_array_is_mapped_as_numpy_loads_it(tmp_path_factory, shape: list[int], dtype: str, fortran: bool) -> None:
    path = tmp_path_factory.mktemp("arrays") / "a.npy"
    array = np.arange(np.prod(shape, dtype=int), dtype=dtype).reshape(shape)
    np.save(path, np.asfortranarray(array) if fortran else array)
    mapped = open_array(path)
    np.testing.assert_array_equal(mapped, np.load(path))
    assert mapped.dtype == np.load(path).dtype


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }", bytes(64)),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -8), }", bytes(64)),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4), }", bytes(64)),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4), }", bytes(63)),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4), }", bytes(65)),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", bytes(8)),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': ('a',), }", bytes(64)),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (True,), }", bytes(4)),
        ("not a header", b""),
    ],
    ids=["negative", "two-negative", "huge", "short", "long", "objects", "words", "bool", "garbage"],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: str, data: bytes) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(npy(header, data))
    with pytest.raises(ValueError, match=r"."):
        open_array(path)


def test_what_is_no_array_is_refused(tmp_path: Path) -> None:
    for number, contents in enumerate([b"", b"\x93NUM", b"PK\x03\x04", npy("{}")[:20], io.BytesIO().getvalue()]):
        (tmp_path / f"{number}.npy").write_bytes(contents)
        with pytest.raises(ValueError, match=r"."):
            open_array(tmp_path / f"{number}.npy")
