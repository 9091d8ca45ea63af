"""The models being served: their versions and labels, and new versions as they appear. No TensorFlow here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vse_tf.errors import UserError
from vse_tf.serving.model_config import ModelConfig, version_folders
from vse_tf.serving.request_error import RequestError

if TYPE_CHECKING:
    from vse_tf.serving.servable import Servable

WATCHING = "watching the versions"
LONGEST_WAIT = 120.0
"""Seconds that a request waits for a model that is still to be loaded."""

Fingerprint = tuple[tuple[str, int, int], ...]


@dataclass
class _State:
    """What the REST API's status says about a version."""

    state: str
    error_code: str = "OK"
    error_message: str = ""


@dataclass
class _Model:
    config: ModelConfig
    loaded: dict[int, Servable] = field(default_factory=dict)
    states: dict[int, _State] = field(default_factory=dict)
    broken: dict[int, Fingerprint] = field(default_factory=dict)


class Registry:
    """The models that are served; it follows the changes of their folders.

    Until a new version is loaded, the old ones go on answering. One that cannot be loaded is
    reported, left alone until its files change, and takes nothing away from those that can.

    Args:
        models: gives the models to serve; it is asked at every look, so that new ones are found.
        load: loads a version folder; it raises `UserError` where that fails.
        report: called with a line about every version that is loaded, unloaded or fails.

    Example:
        registry = Registry(lambda: models_below(Path("models")), load_version)
        registry.look()
        registry.find("text_tower", None, "stable").run("serving_default", {"text": texts})
    """

    def __init__(
        self,
        models: Callable[[], Sequence[ModelConfig]],
        load: Callable[[int, Path], Servable],
        report: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._sources = models
        self._load = load
        self._report = report
        self._models: dict[str, _Model] = {}
        # Guards the tables. Nothing slow happens under it: versions are loaded outside, and a request keeps its
        # version alive by holding it.
        self._lock = threading.Lock()
        # Models that `look` has left for later; who asks for one of them waits.
        self._awaited: set[str] = set()
        self._arrived = threading.Condition(self._lock)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, name: str, load: Callable[[], Servable]) -> None:
        """Serve a model that has no folder, as version 1; until `load` returns, its state is LOADING.

        Args:
            name: its name.
            load: makes it; what it raises is reported.
        """
        model = _Model(ModelConfig(name, Path()))
        with self._lock:
            self._models[name] = model
        self._start(model, 1, load)

    def look(self, only: str | None = None) -> None:
        """Load what is wanted and not there yet, drop what is no longer wanted.

        Args:
            only: look at the model of this name, and leave the others for later; requests for them wait until then.
        """
        configs = list(self._sources())
        if only is not None:
            with self._lock:
                self._awaited = {config.name for config in configs} - {only}
        for config in configs:
            if only not in (None, config.name):
                continue
            with self._lock:
                model = self._models.setdefault(config.name, _Model(config))
                model.config = config
            try:
                self._follow(model, version_folders(config.folder))
            finally:
                with self._arrived:
                    self._awaited.discard(config.name)
                    self._arrived.notify_all()

    def watch(self, seconds: float) -> None:
        """Call `look` now and at this interval, in a background thread named `WATCHING`."""

        def loop() -> None:
            last = ""
            while True:
                try:
                    self.look()
                    last = ""
                except Exception as error:
                    # The folders may vanish under its hands, or the models.config be half written.
                    problem = f"looking for new versions failed: {error or type(error).__name__}"
                    if problem != last:
                        self._report(problem)
                    last = problem
                if self._stop.wait(seconds):
                    return

        self._thread = threading.Thread(target=loop, name=WATCHING, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching. A version that is being loaded is not waited for: then the thread goes on."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=1)

    def serving(self) -> dict[str, list[int]]:
        """The versions that answer, by model."""
        with self._lock:
            return {name: sorted(model.loaded) for name, model in self._models.items()}

    def problems(self) -> list[str]:
        """Why versions that are wanted do not answer."""
        with self._lock:
            states = [state for model in self._models.values() for state in model.states.values()]
        return [state.error_message for state in states if state.error_message]

    def find(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """A version that answers: the one asked for, else the newest. Waits for a model that is still to be loaded.

        Raises:
            RequestError: there is no such model, version or label.
        """
        with self._arrived:
            self._arrived.wait_for(lambda: name not in self._awaited, LONGEST_WAIT)
            model = self._models.get(name)
            if model is not None and label is not None:
                if label not in model.config.labels:
                    raise RequestError(f"Unrecognized servable version label: {label}")
                version = model.config.labels[label]
            loaded = model.loaded if model is not None else {}
            wanted = version if version is not None else max(loaded, default=None)
            if wanted is not None and wanted in loaded:
                return loaded[wanted]
        asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        raise RequestError(f"Servable not found for request: {asked}", 404)

    def status(self, name: str, version: int | None = None) -> list[dict[str, Any]]:
        """The state of a model's versions, newest first, as the REST API gives it.

        Raises:
            RequestError: there is no such model or version.
        """
        with self._lock:
            model = self._models.get(name)
            states = dict(model.states) if model is not None else {}
        if not states:
            raise RequestError(f"Could not find any versions of model {name}", 404)
        if version is not None and version not in states:
            raise RequestError(f"Could not find version {version} of model {name}", 404)
        return [
            {
                "version": str(number),
                "state": state.state,
                "status": {"error_code": state.error_code, "error_message": state.error_message},
            }
            for number, state in sorted(states.items(), reverse=True)
            if version in (None, number)
        ]

    def _follow(self, model: _Model, folders: dict[int, Path]) -> None:
        prints = {version: _fingerprint(folders[version]) for version in folders if version in model.broken}
        for version, fingerprint in prints.items():
            if model.broken[version] != fingerprint:
                del model.broken[version]
        while True:
            wanted = model.config.wanted([version for version in folders if version not in model.broken])
            missing = sorted(wanted - model.loaded.keys(), reverse=True)
            if not missing:
                break
            # One at a time: after a failure the next best one is wanted.
            self._bring(model, missing[0], folders[missing[0]])
        # A folder emptied by mistake takes nothing away.
        for version in sorted(model.loaded.keys() - wanted) if wanted else []:
            with self._lock:
                del model.loaded[version]
                model.states[version] = _State("END")
            self._report(f"{model.config.name} {version}: unloaded")

    def _bring(self, model: _Model, version: int, folder: Path) -> None:
        before = _fingerprint(folder)
        if not self._start(model, version, lambda: self._load(version, folder), f"{folder}: "):
            with self._lock:
                model.broken[version] = before

    def _start(self, model: _Model, version: int, load: Callable[[], Servable], where: str = "") -> bool:
        """Load a version; returns whether that succeeded."""
        with self._lock:
            model.states[version] = _State("LOADING")
        try:
            servable = load()
        except Exception as error:
            # Whatever a folder holds, the versions that answer go on answering.
            reason = str(error) if isinstance(error, UserError) else f"{where}{type(error).__name__}: {error}"
            with self._lock:
                model.states[version] = _State("END", "INVALID_ARGUMENT", " ".join(reason.split()))
            self._report(f"{model.config.name} {version}: not served: {reason}")
            return False
        with self._lock:
            model.loaded[version] = servable
            model.states[version] = _State("AVAILABLE")
        self._report(f"{model.config.name} {version}: available")
        return True


def _fingerprint(folder: Path) -> Fingerprint:
    """Names, sizes and times of a folder's files: what changes when somebody repairs or completes it."""
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns))
    return tuple(found)
