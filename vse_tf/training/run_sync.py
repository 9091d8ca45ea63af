"""Copies a run to a bucket while it trains, and back to a machine that goes on with it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path

import tensorflow as tf

from vse_tf.artifacts.checkpoint_files import OPTIMIZER, POINTER, STATE, find_checkpoint
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.config import Settings
from vse_tf.display import Phase, say
from vse_tf.errors import UserError
from vse_tf.files import file_errors
from vse_tf.remote.copies import bring
from vse_tf.remote.filesystem import check_writable, listed, read_object
from vse_tf.remote.outputs import put_folder
from vse_tf.settings_parser import differences, load_settings
from vse_tf.settings_yaml import YAML_BYTES
from vse_tf.training.distribution import is_chief, worker_sum
from vse_tf.training.resume import FREE, RATE

SNAPSHOT = ".sync"
# Written once, and never changed under their names.
_WEIGHTS = (STATE, OPTIMIZER, "frozen.h5")
_SMALL = 64 * 2**20


class RunSync:
    """The copy of a run folder at `train.sync_to`.

    A copy is made of a snapshot that is consistent in itself, in a thread, so that training does not wait. In the
    bucket checkpoints come before the pointer to them, and older ones go last: whoever reads finds an intact one.

    Args:
        run: the run folder.
        settings: the run's settings, `train.sync_to` among them.

    Raises:
        UserError: nothing can be written there.

    Example:
        sync = RunSync(run, settings)
        sync.bring()
        sync.push()
        sync.finish()
    """

    def __init__(self, run: RunFolder, settings: Settings) -> None:
        self.run = run
        self.address = str(settings.train.sync_to)
        self._thread: threading.Thread | None = None
        self._error: UserError | None = None
        check_writable(self.address, "train.sync_to")

    def bring(self) -> None:
        """Copy the run from the bucket if it is further there than here, or not here at all.

        Raises:
            UserError: it cannot be read or is another run, or the run folder cannot be written.
        """
        there = self._remote_state()
        if there is not None and self.run.exists:
            self._check_same()
        if there is not None and (not self.run.exists or there > self._local_state()):
            say(f"{self.address}: the run is taken from there")
            bring(self.address, self.run.path, skip=(".lock",))

    def agree(self, strategy: tf.distribute.Strategy) -> None:
        """Let all workers begin with the chief's checkpoints; every worker calls this."""
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            if is_chief(strategy) and self.run.exists:
                self.finish()
            worker_sum(strategy, 1)([0.0])
            if not is_chief(strategy):
                self.bring()

    def push(self) -> None:
        """Begin to copy the run as it is now; while a copy is being made, it is left to the next call."""
        if self._thread is not None and self._thread.is_alive():
            return
        snapshot = self._snapshot()
        # Not a daemon: what has begun is finished even if the command ends with an error.
        self._thread = threading.Thread(target=self._copy, args=(snapshot,), name="copying the run")
        self._thread.start()

    def finish(self) -> None:
        """Wait until the run is copied as it is now.

        Raises:
            UserError: it could not be copied.
        """
        with Phase(f"copying the run to {self.address}"):
            self._join()
            self.push()
            self._join()
        if self._error is not None:
            raise UserError(f"train.sync_to: {self._error}; the run is in {self.run.path}: repeat the command")

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _copy(self, snapshot: Path) -> None:
        try:
            there = listed(self.address)
            for name in list(there):
                path = snapshot / name
                if path.name in _WEIGHTS and path.is_file() and path.stat().st_size == there[name].size:
                    path.unlink()
                    there.pop(name)
            put_folder(
                snapshot, self.address, ["results.json", POINTER], tidy=_is_checkpoint, there=there, progress=False
            )
            self._error = None
        except UserError as error:
            self._error = error
            say(f"train.sync_to: {error}; tried again with the next checkpoint")
        finally:
            shutil.rmtree(snapshot, ignore_errors=True)

    def _snapshot(self) -> Path:
        """The files of the run as they are now: links to those that do not change, copies of the others."""
        snapshot = self.run.path / SNAPSHOT
        shutil.rmtree(snapshot, ignore_errors=True)
        with file_errors(snapshot, "written"):
            for path in sorted(self.run.path.rglob("*")):
                name = path.relative_to(self.run.path)
                if any(part.startswith(".") for part in name.parts) or not path.is_file():
                    continue
                target = snapshot / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if path.name in _WEIGHTS:
                    with contextlib.suppress(OSError):
                        os.link(path, target)
                        continue
                shutil.copyfile(path, target)
        return snapshot

    def _remote_state(self) -> tuple[int, bool] | None:
        """The last step of the run in the bucket and whether it is finished; None if there is no run."""
        try:
            pointer = self._remote_json(f"checkpoints/{POINTER}")
            step = int(str(pointer.get("last") or "step-0").rpartition("-")[2])
        except ValueError:
            step = 0
        except FileNotFoundError:
            return None
        with contextlib.suppress(FileNotFoundError):
            return step, bool(self._remote_json("results.json").get("finished"))
        return step, False

    def _check_same(self) -> None:
        """Refuse a place with another run: one of the two would be lost."""
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder, "config.yaml")
            config.write_bytes(read_object(f"{self.address}/config.yaml", YAML_BYTES))
            there = load_settings(config)
        differing = [key for key in differences(self.run.settings(), there) if key not in FREE | RATE]
        if differing:
            raise UserError(
                f"train.sync_to: {self.address} holds another run than {self.run.path}, with another {differing[0]}; "
                "name an empty place, or another --train.run_dir"
            )

    def _remote_json(self, name: str) -> dict[str, object]:
        found = json.loads(read_object(f"{self.address}/{name}", _SMALL))
        if not isinstance(found, dict):
            raise UserError(f"{self.address}/{name}: not a run's; name an empty place with --train.sync_to")
        return found

    def _local_state(self) -> tuple[int, bool]:
        found = find_checkpoint(self.run.checkpoints)
        results = self.run.read_results() or {}
        return (found.position.step if found else -1), bool(results.get("finished"))


def _is_checkpoint(name: str) -> bool:
    """Whether an object is of a checkpoint: the run has removed it, if it is not among its files."""
    return name.startswith("checkpoints/step-")
