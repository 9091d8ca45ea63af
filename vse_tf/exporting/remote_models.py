"""Exported models in a bucket: written in the cache folder, then object by object, so that no server loads half of one.

A bucket has no folders to rename: TensorFlow Serving sees a version as soon as it has one object, and loads it by its
`saved_model.pb`. That comes after all other files, and the manifest, by which this package checks them, after it.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from vse_tf.artifacts.manifest import MANIFEST
from vse_tf.atomic import atomic_file
from vse_tf.exporting.batching import FILE_NAME
from vse_tf.files import file_errors
from vse_tf.remote.copies import copy_folder
from vse_tf.remote.filesystem import download, listed
from vse_tf.remote.outputs import put_folder

SAVED_MODEL = "saved_model.pb"
_VERSION = re.compile(r"([^/]+/[0-9]+)/.+")


def copy_of_models(address: str) -> Path:
    """The local folder in which models for an address are written; it has the numbers of the versions there.

    Args:
        address: of the folder of all models, which need not exist.

    Raises:
        UserError: it cannot be read.
    """
    folder = copy_folder(address)
    shutil.rmtree(folder, ignore_errors=True)
    there = listed(address)
    with file_errors(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in sorted({found[1] for each in there if (found := _VERSION.fullmatch(each))}):
            (folder / name).mkdir(parents=True)
            batching = f"{name}/{FILE_NAME}"
            if batching in there:
                # The next version keeps these settings unless it is given others.
                with atomic_file(folder / batching) as file:
                    download(f"{address}/{batching}", there[batching], file)
    return folder


def publish_models(folder: Path, address: str) -> None:
    """Write the new versions to their address.

    Args:
        folder: the local folder that `copy_of_models` returned; it is removed.
        address: the address.

    Raises:
        UserError: they cannot be written, or another export has taken their number.
    """
    there = listed(address)
    for name in there:
        # Those that were there before, their batching files too.
        with file_errors(folder, "written"):
            (folder / name).unlink(missing_ok=True)
    put_folder(folder, address, [SAVED_MODEL, MANIFEST], there={})
    shutil.rmtree(folder, ignore_errors=True)
