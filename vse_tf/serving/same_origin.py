"""Which requests a server on this machine may answer: those to it by name, not those that foreign web pages send.

A browser lets any page send requests to 127.0.0.1. A page whose own name is made to stand for 127.0.0.1 (DNS
rebinding) may also read the answers. The first shows in `Origin` and `Sec-Fetch-Site`, the second in `Host`; clients
other than browsers, such as curl, send no more than an honest `Host`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Mapping
from typing import Any

from vse_tf.errors import UserError
from vse_tf.serving.request_error import RequestError

# Sent with every answer: no foreign page may embed it.
HEADERS = {"Cross-Origin-Resource-Policy": "same-origin"}
_HOST = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::[0-9]{1,5})?", re.IGNORECASE | re.ASCII)
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*", re.ASCII)


def own_names(hosts: Collection[str] = ()) -> frozenset[str]:
    """The names under which this machine's server answers, in addition to every IP address.

    Args:
        hosts: more names, without scheme and port.

    Returns:
        `localhost`, the machine's own name with and without its domain, and those given; all in lower case.

    Raises:
        UserError: one of them is not a host name.

    Example:
        >>> own_names(["images.example.org"]) >= {"localhost", "images.example.org"}
        True
    """
    given = {host.lower().removesuffix(".") for host in hosts}
    for name in sorted(given):
        if not _NAME.fullmatch(name):
            raise UserError(f"--hosts: {name!r} is not a host name; give it without scheme, port and path")
    own = socket.gethostname().lower()
    return frozenset({"localhost", own, own.partition(".")[0], *given})


def check_origin(environ: Mapping[str, Any], names: Collection[str]) -> None:
    """Refuse a request that is not for this server, or that a foreign page has sent.

    Navigation to the page itself (`GET /`), such as a click on a link elsewhere, is let through: it shows the page to
    whoever sits at the browser, not to the page that they came from.

    Args:
        environ: the request's WSGI environment.
        names: see `own_names`.

    Raises:
        RequestError: 403, or 400 for a request of HTTP/1.1 without `Host`.
    """
    host = environ.get("HTTP_HOST")
    target = environ.get("REQUEST_URI", "/")
    if host is None and environ.get("SERVER_PROTOCOL") != "HTTP/1.0":
        raise RequestError("The request has no Host header")
    if "://" in target and not target.startswith("/"):
        # Only requests to a proxy have their host there, where it counts for more than the header.
        raise RequestError("The request's target names a host: this server is no proxy", 403)
    if host is not None and not _is_ours(host, names):
        raise RequestError(
            f"The request is for the host {_quoted(host)}, which is not this server's; python -m vse_tf.serve --hosts "
            "NAME adds a name",
            403,
        )
    asked = environ.get("REQUEST_METHOD"), environ.get("PATH_INFO"), environ.get("HTTP_SEC_FETCH_MODE")
    if asked == ("GET", "/", "navigate"):
        return
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and (host is None or origin.lower().partition("://")[2] != host.lower()):
        raise RequestError(f"The request comes from a page of {_quoted(origin)}, not of this server", 403)
    # "none" is an address that was typed. "same-site" is another port of this host, which is another server.
    if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin"):
        raise RequestError("The request comes from a page of another server", 403)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine alone.

    Args:
        host: a name or an IP address.
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_ours(host: str, names: Collection[str]) -> bool:
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found["six"] or found["name"].lower().removesuffix(".")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return found["six"] is None and name in names
    return (found["six"] is not None) == (":" in name)


def _quoted(value: str) -> str:
    return repr(value if len(value) <= 100 else value[:100] + "...")
