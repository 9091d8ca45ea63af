"""Addresses of stores, as the user types them. User info and query strings are in no message."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from vse_tf.addresses import is_address
from vse_tf.errors import UserError

StoreKind = Literal["parquet", "lancedb", "postgresql"]

TABLE = "vectors"
STORES = "a path that ends in .parquet or .lancedb, or postgresql://HOST/DATABASE"
_HIDDEN = "***"
_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,50}")


@dataclass(frozen=True)
class Address:
    """The address of a store.

    Args:
        kind: what is there.
        text: as it was typed.

    Example:
        >>> str(address_of("postgresql://ann:secret@db.example/photos?sslmode=require"))
        'postgresql://db.example/photos'
    """

    kind: StoreKind
    text: str = field(repr=False)

    def __str__(self) -> str:
        if "://" not in self.text:
            return self.text
        parts = urlsplit(self.text)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def hide(self, message: object) -> str:
        """A message of another library in one line, without what the address keeps secret."""
        text = " ".join(str(message).split())
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = text.replace(secret, _HIDDEN)
        return text

    def _secrets(self) -> set[str]:
        if "://" not in self.text:
            return set()
        parts = urlsplit(self.text)
        info = parts.netloc.rpartition("@")[0]
        raw = {info, *info.partition(":")[::2], parts.query}
        raw |= {pair.partition("=")[2] for pair in parts.query.split("&")}
        raw |= {value for _, value in parse_qsl(parts.query)}
        return {each for secret in raw for each in (secret, unquote(secret)) if each}


def address_of(text: str) -> Address | None:
    """The store that a text names; None if it is something else, such as the folder of an index.

    Raises:
        UserError: it is an address that cannot be read; the message does not repeat it.

    Example:
        >>> address_of("photos.lancedb").kind, address_of("photos.index")
        ('lancedb', None)
    """
    scheme, colon, _ = text.partition("://")
    path = text
    if colon:
        _check(text)
        path = urlsplit(text).path
        if scheme.lower() in ("postgresql", "postgres"):
            return Address("postgresql", text)
    for kind in ("parquet", "lancedb"):
        if path.rstrip("/").lower().endswith(f".{kind}"):
            return Address(kind, text)
    if colon and not is_address(text):
        raise UserError(f"{scheme}://: not the address of a store; name {STORES}")
    return None


def check_table(name: str) -> None:
    """Refuse a name that a table cannot have everywhere.

    Raises:
        UserError: it has other characters than letters, digits and underscores, or is too long.
    """
    if not _TABLE_NAME.fullmatch(name):
        raise UserError(f"--table: {name!r} is not a name of up to 51 letters, digits and underscores, a letter first")


def _check(text: str) -> None:
    try:
        parts = urlsplit(text)
        # Reading the port checks it.
        broken = parts.port == 0 or ("@" not in parts.netloc and "@" in parts.path + parts.query + parts.fragment)
    except ValueError:
        broken = True
    if broken:
        raise UserError(
            "the address of the store cannot be read; in the user's name and password, write / ? # @ : and % as %2F "
            "%3F %23 %40 %3A and %25, or leave them to PGUSER and PGPASSWORD"
        )
