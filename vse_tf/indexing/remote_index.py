"""An index in a bucket: made in the cache folder, then written object by object, its manifest last."""

from __future__ import annotations

import re
from pathlib import Path

from vse_tf.artifacts.index_manifest import MANIFEST
from vse_tf.errors import UserError
from vse_tf.remote.copies import bring, copy_folder
from vse_tf.remote.filesystem import check_writable, listed
from vse_tf.remote.outputs import put_folder

_OWN = re.compile(r"(?:vectors|compact|background|items)[^/]*|skipped\.jsonl|\.embed/.*")


def copy_of_index(address: str) -> Path:
    """The local folder in which an index for an address is made; it begins as what is there.

    Args:
        address: of the index, which need not exist.

    Raises:
        UserError: there is something else, or the place cannot be read or written.
    """
    check_writable(address, "--output")
    there = [name for name in listed(address) if not name.startswith(".embed/")]
    if there and MANIFEST not in there:
        raise UserError(f"{address} holds something that is not an index; choose another address for the index")
    folder = copy_folder(address)
    # What a killed call has embedded stays, here and there.
    bring(address, folder, skip=(".embed/spans/*",), tidy=False)
    return folder


def publish_index(folder: Path, address: str) -> None:
    """Write an index to its address, and delete what only the index before it had.

    Args:
        folder: its local folder.
        address: its address.

    Raises:
        UserError: it cannot be written; readers then see the index before it.
    """
    put_folder(folder, address, [MANIFEST], tidy=lambda name: _OWN.fullmatch(name) is not None)
