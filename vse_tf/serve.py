"""`python -m vse_tf.serve`: answer TensorFlow Serving's REST API on this machine, for development."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn

from jsonargparse import Namespace
from jsonargparse.typing import PositiveFloat, PositiveInt, restricted_number_type

from vse_tf.command_line import command_parser
from vse_tf.errors import UserError, run_command
from vse_tf.serving.model_config import ModelConfig, models_below, read_models_config, with_labels

Port = restricted_number_type("Port", int, [(">=", 0), ("<", 65536)])
PROG = "python -m vse_tf.serve"
DESCRIPTION = """Serve SavedModels over TensorFlow Serving's REST API (predict, status, metadata, versions, labels)
on this machine, to try the calls without containers. SavedModels are programs: serve only what you trust.

This is a development server for 127.0.0.1. A request that drips in is given up after --timeout, but nothing bounds how
many connections a client opens, and 500 slow ones keep everybody else out: only a proxy does, such as that of the
serving kit in export/. Requests for other host names than localhost, this machine's own and those of --hosts are
refused, and so are those that web pages of other sites send."""


def main(argv: list[str] | None = None) -> None:
    """Run the command until it is interrupted or terminated.

    Args:
        argv: its arguments (default: those of the process).

    Raises:
        UserError: nothing to serve, an address that cannot be bound, or a wrong option.
    """
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    before = signal.signal(signal.SIGTERM, _stop)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with contextlib.suppress(KeyboardInterrupt, _Stopped):
            _serve(arguments)
    finally:
        signal.signal(signal.SIGTERM, before)
    _say("stopped")


def _serve(arguments: Namespace) -> None:
    from vse_tf.serving.same_origin import is_loopback, own_names  # noqa: PLC0415

    # A name to listen on is one to be called by; an IPv6 address is no name.
    names = own_names([*arguments.hosts, *([arguments.host] if ":" not in arguments.host else [])])
    _models(arguments)
    if not is_loopback(arguments.host):
        print(
            f"warning: --host {arguments.host} lets other machines send requests; this is a development server without "
            "access control: put the proxy of the serving kit (export/) before it, or leave --host at 127.0.0.1",
            file=sys.stderr,
            flush=True,
        )
    from vse_tf.serving.http import make_app, make_server  # noqa: PLC0415
    from vse_tf.serving.loading import load_version  # noqa: PLC0415
    from vse_tf.serving.registry import Registry  # noqa: PLC0415
    from vse_tf.serving.rest import RestApi  # noqa: PLC0415

    registry = Registry(lambda: _models(arguments), load_version, _say)
    limit = arguments.max_body_bytes
    app = make_app(RestApi(registry), limit, _search_page(arguments) if arguments.gallery else [], names)
    server = make_server(app, arguments.host, arguments.port, arguments.workers, limit, arguments.timeout)
    try:
        # The port is taken, but nothing is accepted before the first versions answer: as the real server has it.
        registry.look()
        if not any(registry.serving().values()):
            raise UserError(f"no model could be loaded: {'; '.join(registry.problems())}")
        registry.watch(arguments.poll_seconds)
        address = f"http://{arguments.host}:{server.effective_port}"
        for name, versions in registry.serving().items():
            _say(f"{address}/v1/models/{name} versions {', '.join(map(str, versions)) or 'none'}")
        if arguments.gallery:
            _say(f"search page: {address}/")
        _say(f"serving at {address} (Ctrl-C stops it)")
        server.run()
    finally:
        registry.close()
        server.close()


def _search_page(arguments: Namespace) -> Sequence[Callable[..., Any]]:
    from vse_tf.artifacts.index import Index  # noqa: PLC0415
    from vse_tf.artifacts.index_paths import OutsideError  # noqa: PLC0415
    from vse_tf.serving.pages import GalleryRoute, check_towers, page_route  # noqa: PLC0415

    index = Index.open(arguments.gallery, arguments.root)
    try:
        if index.kind == "images" and len(index):
            index.image(index.item(0))
    except OutsideError as error:
        _say(f"the gallery's images are not displayed; {error.filename}: {error.strerror}")
    if arguments.models:
        check_towers(index, Path(arguments.models))
    return [page_route, GalleryRoute(index)]


def _models(arguments: Namespace) -> Sequence[ModelConfig]:
    below = Path(arguments.models) if arguments.models else None
    newest = 0 if arguments.versions == "all" else arguments.versions
    if arguments.models_config:
        models = read_models_config(Path(arguments.models_config), below)
    elif below is not None:
        models = models_below(below, newest)
    else:
        raise UserError("nothing to serve: name the folder of the models with --models, or a --models-config")
    if not models:
        raise UserError(
            f"--models: {below} holds no models; they lie in it as MODEL/VERSION/saved_model.pb, the version a number"
        )
    return with_labels(models, arguments.label)


def _parse(argv: list[str]) -> Namespace:
    parser = command_parser(PROG, DESCRIPTION)
    parser.add_argument("--models", type=str | None, help="folder of the models, each MODEL/VERSION/saved_model.pb")
    parser.add_argument(
        "--models-config",
        type=str | None,
        help="TensorFlow Serving's models.config, with policies and labels; a base_path that does not exist here is "
        "looked for in --models",
    )
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="[MODEL:]LABEL=VERSION",
        help="serve a version under a label; may be repeated",
    )
    parser.add_argument(
        "--versions", type=PositiveInt | Literal["all"], default=1, help="how many of the newest versions to serve"
    )
    parser.add_argument(
        "--gallery", type=str | None, help="also serve a page that searches this index of python -m vse_tf.embed"
    )
    parser.add_argument(
        "--root", type=str | None, help="folder of its images (default: the one that it names, if next to it)"
    )
    parser.add_argument("--host", type=str, default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--hosts",
        type=str,
        nargs="+",
        default=[],
        metavar="NAME",
        help="host names that requests may be for, in addition to localhost, this machine's own name and IP addresses",
    )
    parser.add_argument("--port", type=Port, default=8501, help="port; 0 takes a free one")
    parser.add_argument("--workers", type=PositiveInt, default=4, help="requests worked on at once")
    parser.add_argument("--max-body-bytes", type=PositiveInt, default=32 * 2**20, help="larger requests are refused")
    parser.add_argument("--timeout", type=PositiveFloat, default=60.0, help="seconds that a request may take to arrive")
    parser.add_argument("--poll-seconds", type=PositiveFloat, default=1.0, help="time between looks for new versions")
    return parser.parse_args(argv)


class _Stopped(SystemExit):
    """SIGTERM arrived."""


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise _Stopped(0)


def _say(message: str) -> None:
    print(message, flush=True)


if __name__ == "__main__":
    run_command(main)
