"""Downloads by Keras, KerasHub and TensorFlow Datasets: they end within a minute, and say what to do without a network.

No TensorFlow is imported here.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import re
import socket
import sys
import urllib.error
from collections.abc import Iterator
from typing import Any

from vse_tf.errors import UserError

# Seconds without an answer. Keras itself would wait for ever.
TIMEOUT = 20.0
# Until a host counts as not reachable, where libraries would try again for minutes.
PROBE_SECONDS = 5.0
TFDS_RETRIES = 2
HF = "hf://"
# Of their errors, those of a connection have only a base class in common that all errors have.
_NETWORK_PACKAGES = {"requests", "urllib3", "httpx", "httpcore", "kagglehub", "huggingface_hub"}
_HOST = re.compile(r"https?://([\w.:-]+)|host='([\w.-]+)'")


@contextlib.contextmanager
def downloads(what: str, advice: str, preset: str = "") -> Iterator[None]:
    """Download inside the block, or say in one line why that failed and what can be done.

    What is in a library's cache is read from there, without a network too.

    Args:
        what: what is downloaded, for the message.
        advice: what to do without a network.
        preset: the KerasHub preset, if it is one: Hugging Face's client is told beforehand that its host cannot be
            reached. It would ask six times for each file.

    Raises:
        UserError: the block raised an error for want of a connection. Its other errors pass.

    Example:
        >>> with downloads("image.encoder: the weights", "give --image.weights FILE"):
        ...     raise ConnectionRefusedError(111, "Connection refused")
        Traceback (most recent call last):
        vse_tf.errors.UserError: image.encoder: the weights could not be downloaded: Connection refused; give ...
    """
    with _timeout(), _hub_offline(preset) as offline, _few_retries():
        try:
            yield
        except Exception as error:
            cause = offline or network_error(error)
            if cause is None:
                raise
            where = _host(cause) or _host(error)
            raise UserError(
                f"{what} could not be downloaded{where and f' from {where}'}: {_reason(cause)}; {advice}"
            ) from error


def preset_downloads(key: str, preset: str) -> contextlib.AbstractContextManager[None]:
    """`downloads` of the files of a KerasHub preset.

    Args:
        key: `image.encoder` or `text.encoder`.
        preset: preset name, handle or folder.
    """
    small, how = ("cnn", "a small network") if key == "image.encoder" else ("gru", "a GRU")
    advice = (
        f"without a network give the preset's folder (--{key} hub:FOLDER), or train {how} from scratch "
        f"(--{key} {small})"
    )
    return downloads(f"{key} hub:{preset}: its files", advice, preset)


def network_error(error: BaseException) -> BaseException | None:
    """The error of a connection that an error was raised for, or None.

    An answer that says that there is no such file is none, but one that a server or a proxy refuses in other ways is.

    Args:
        error: the error; those before it in its chain count.
    """
    chain: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in chain:
        chain.append(step)
        step = step.__cause__ or step.__context__
    return next((each for each in chain if _is_network(each)), None)


def _is_network(error: BaseException) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return True
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status == 407 or status >= 429
    if isinstance(error, (urllib.error.URLError, socket.gaierror, TimeoutError, ConnectionError)):
        return True
    # requests' errors are all OSErrors, httpx's none.
    names = {kind.__name__ for kind in type(error).__mro__}
    return type(error).__module__.partition(".")[0] in _NETWORK_PACKAGES and bool(
        names & {"ConnectionError", "Timeout", "TransportError", "MaxRetryError"}
    )


def _reason(error: BaseException) -> str:
    """What the system or the server said, without the classes around it."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    step: BaseException | None = error
    found = ""
    while step is not None:
        # Of a chain of wrapped errors the first in time is the plainest.
        found = getattr(step, "strerror", None) or found
        reason = getattr(step, "reason", None)
        step = step.__cause__ or step.__context__ or (reason if isinstance(reason, BaseException) else None)
    text = found or str(error) or type(error).__name__
    return " ".join(str(text).split())[:200]


def _host(error: BaseException) -> str:
    url = getattr(getattr(error, "request", None), "url", None) or getattr(error, "url", None)
    step: BaseException | None = error
    while step is not None:
        if found := _HOST.search(f"{url or ''} {step}"):
            return found[1] or found[2]
        step = step.__cause__ or step.__context__
    return ""


@contextlib.contextmanager
def _timeout() -> Iterator[None]:
    """A time limit for sockets that have none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(before or TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _hub_offline(preset: str) -> Iterator[BaseException | None]:
    """Hugging Face's client reads its cache alone if its host cannot be reached; yields why it cannot be reached."""
    if not preset.startswith(HF) or importlib.util.find_spec("huggingface_hub") is None:
        yield None
        return
    constants: Any = importlib.import_module("huggingface_hub.constants")
    error = None if constants.is_offline_mode() else _unreachable(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE, before = constants.HF_HUB_OFFLINE or error is not None, constants.HF_HUB_OFFLINE
    try:
        yield error
    finally:
        constants.HF_HUB_OFFLINE = before


def _unreachable(address: str) -> BaseException | None:
    """Why Hugging Face's host cannot be reached; None if it answers, whatever it answers."""
    client: Any = importlib.import_module("huggingface_hub.utils")
    try:
        # Its own client, for its proxy and certificates.
        client.get_session().head(address, timeout=PROBE_SECONDS)
    except Exception as error:  # requests or httpx, depending on the version
        return error
    return None


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
    """TensorFlow Datasets asks three times, not eleven times in four minutes, and no line is printed for each."""
    downloader: Any = sys.modules.get("tensorflow_datasets.core.download.downloader")
    connections = logging.getLogger("urllib3.connectionpool")
    level, retries = connections.level, getattr(downloader, "MAX_RETRIES", None)
    connections.setLevel(logging.ERROR)
    if retries is not None:
        downloader.MAX_RETRIES = TFDS_RETRIES
    try:
        yield
    finally:
        connections.setLevel(level)
        if retries is not None:
            downloader.MAX_RETRIES = retries
