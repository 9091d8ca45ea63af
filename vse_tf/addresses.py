"""Addresses of files and folders, as the user types them: which may be opened, and what messages show of them.

The text that the rest of the package holds, logs and writes to files has no user info and no query string; what was
typed stays in this module and is used only to open the address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeGuard
from urllib.parse import parse_qsl, unquote, urlsplit

from vse_tf.errors import UserError

SCHEMES = ("s3", "gs", "gcs", "https", "http", "memory")
HTTP = ("https", "http")
PLACES = "s3://, gs://, https:// or memory://"
_HIDDEN = "***"
_ADDRESS = re.compile(rf"(?:{'|'.join(SCHEMES)})://\S*")
# In an argument: alone, behind `--option=`, as `hub:…`, or in a list or mapping of YAML.
_IN_ARGUMENT = re.compile(rf"(^|=|hub:|[\[,{{:]\s*|[\"'])((?:{'|'.join(SCHEMES)})://[^\s,\"'\]]+)")
# What was typed, by what is shown of it.
_typed: dict[str, str] = {}


def is_address(text: object) -> TypeGuard[str]:
    """Whether a text is the address of a place that can be read.

    Example:
        >>> is_address("s3://photos/flickr8k"), is_address("photos/flickr8k"), is_address("postgresql://localhost/x")
        (True, False, False)
    """
    return isinstance(text, str) and _ADDRESS.fullmatch(text) is not None


def shown(address: str) -> str:
    """An address without user info, query string and fragment; a slash at its end is dropped.

    Example:
        >>> shown("https://ann:secret@example.org/captions.csv?token=123")
        'https://example.org/captions.csv'
    """
    scheme, _, rest = address.partition("://")
    if scheme in HTTP:
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".rstrip("/")


def allow(address: str) -> str:
    """Allow an address that the user has typed, and what lies below it, to be opened by this process.

    Args:
        address: as it was typed.

    Returns:
        What is shown of it.

    Raises:
        UserError: it has user info where there is none, or climbs with `..`.
    """
    text = shown(address)
    scheme, _, rest = address.partition("://")
    if scheme not in HTTP and "@" in rest.partition("/")[0]:
        raise UserError(
            f"{text}: credentials do not belong into an address; leave them to the environment or a profile"
        )
    if ".." in rest.split("/"):
        raise UserError(f"{text}: an address with .. is not opened; write it out")
    # What is shown of an address is typed again where it is passed on; the secret stays.
    if text != address.rstrip("/") or text not in _typed:
        _typed[text] = address
    return text


def allow_arguments(arguments: Sequence[str]) -> list[str]:
    """Allow the addresses in a command line.

    Args:
        arguments: as they were typed.

    Returns:
        The arguments with what is shown of the addresses.

    Example:
        >>> allow_arguments(["--data.annotations=https://ann:secret@example.org/captions.csv", "a dog"])
        ['--data.annotations=https://example.org/captions.csv', 'a dog']
    """
    return [_IN_ARGUMENT.sub(lambda found: found[1] + allow(found[2]), argument) for argument in arguments]


def allowed() -> dict[str, str]:
    """What `allow` was called with, by what is shown, for another process of the same command."""
    return dict(_typed)


def allow_again(typed: Mapping[str, str]) -> None:
    """Allow the addresses that another process of the same command had allowed."""
    _typed.update(typed)


def typed(address: str) -> str:
    """The address to open: with the user info and query string that were typed.

    Args:
        address: what is shown of it, or of something below it.

    Raises:
        UserError: the user has typed neither it nor a folder that it lies in.
    """
    if address in _typed:
        return _typed[address]
    if ".." not in address.split("/"):
        for text, full in _typed.items():
            # A pattern allows its whole folder; only the files that match it are read.
            folder = text if not is_pattern(text) else pattern_folder(text)
            if address.startswith(f"{folder}/") or address == folder:
                scheme, _, rest = full.partition("://")
                info = rest.partition("/")[0].rpartition("@")[0]
                return f"{scheme}://{info}@{address.partition('://')[2]}" if scheme in HTTP and info else address
    raise UserError(
        f"{address}: not opened, since it was not typed: addresses in the files of others are not followed; to read "
        "it, name it on the command line"
    )


def is_pattern(address: str) -> bool:
    """Whether an address stands for several files: `*`, `?`, or a range as in `train-{00000..00041}.tar`.

    Example:
        >>> is_pattern("s3://photos/train-*.tar")
        True
    """
    return re.search(r"[*?]|\{\d+\.\.\d+\}", address.partition("://")[2]) is not None


def pattern_folder(address: str) -> str:
    """The folder that all files of a pattern lie in.

    Example:
        >>> pattern_folder("s3://photos/2014/train-{0..9}.tar")
        's3://photos/2014'
    """
    scheme, _, rest = address.partition("://")
    parts = rest.split("/")
    plain = next(number for number, part in enumerate(parts) if is_pattern(f"{scheme}://{part}"))
    return f"{scheme}://{'/'.join(parts[:plain])}"


def last_name(address: str) -> str:
    """The last name of an address: of the file, the folder, or else the bucket."""
    return address.rstrip("/").rpartition("/")[2]


def without_secrets(message: object) -> str:
    """A message of another library in one line, without what the user typed as user info or query string."""
    text = " ".join(str(message).split())
    for short, full in sorted(_typed.items(), key=lambda pair: -len(pair[1])):
        if short != full.rstrip("/"):
            for secret in sorted(_secrets(full), key=len, reverse=True):
                text = text.replace(secret, _HIDDEN)
    return text


def _secrets(address: str) -> set[str]:
    parts = urlsplit(address)
    info = parts.netloc.rpartition("@")[0]
    raw = {info, info.partition(":")[2], parts.query, *(value for _, value in parse_qsl(parts.query))}
    raw |= {pair.partition("=")[2] for pair in parts.query.split("&")}
    return {each for secret in raw for each in (secret, unquote(secret)) if len(each) > 2}
