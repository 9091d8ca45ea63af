"""`python -m vse_tf.serve`: a search page and TensorFlow Serving's REST API on this machine, for development."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal, NoReturn

from jsonargparse import Namespace
from jsonargparse.typing import ClosedUnitInterval as Share
from jsonargparse.typing import PositiveFloat, PositiveInt, restricted_number_type

from vse_tf.command_line import command_parser
from vse_tf.display import Phase, say
from vse_tf.errors import UserError, run_command, shell_path
from vse_tf.indexing.relevance import MIN_RELEVANCE
from vse_tf.preprocessing.image_limits import SERVED_PIXELS
from vse_tf.serving.model_config import ModelConfig, models_below, read_models_config, with_labels
from vse_tf.serving.registry import WATCHING
from vse_tf.startup import starting_tensorflow

if TYPE_CHECKING:
    from vse_tf.artifacts.index import Index
    from vse_tf.exporting.image_module import ImageModule
    from vse_tf.exporting.text_module import TextModule
    from vse_tf.indexing.embedding_models import RunModel
    from vse_tf.indexing.items import Items
    from vse_tf.serving.http import Route
    from vse_tf.serving.registry import Registry
    from vse_tf.serving.servable import Servable

Port = restricted_number_type("Port", int, [(">=", 0), ("<", 65536)])
PROG = "python -m vse_tf.serve"
DESCRIPTION = """Serve a page that searches your images, and TensorFlow Serving's REST API, on this machine. --run with
--images needs nothing else: it embeds the images that are new and answers with the run itself. --models serves exported
models, which are programs: serve only what you trust. This is a development server for 127.0.0.1: a request that takes
longer than --timeout to arrive is given up, but only a proxy limits how many connections a client opens, such as that
of the serving kit in export/. Requests for other host names than localhost, this machine's own and those of --hosts are
refused, and so are those that web pages of other sites send."""
EXAMPLES = (f"{PROG} --run runs/table-convse-0 --images photos", f"{PROG} --models models --gallery photos.index")
IMAGE_TOWER, TEXT_TOWER = "image_tower", "text_tower"
LOADING = "loading the image tower"
# Options that go with --run, and those that go with exported models.
OF_RUN = ("run", "images", "index")
OF_MODELS = ("models", "models_config", "label", "versions", "gallery", "root", "poll_seconds")


def main(argv: list[str] | None = None) -> None:
    """Run the command until it is interrupted or terminated.

    Args:
        argv: its arguments (default: those of the process).

    Raises:
        UserError: nothing to serve, an address that cannot be bound, or a wrong option.
    """
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    threads = set(threading.enumerate())
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        with contextlib.suppress(_Stopped):
            _serve(arguments)
    except KeyboardInterrupt:
        # Once it serves, Ctrl-C is how it is stopped, and the server returns; before, it is one as in other commands.
        if not _loading(threads):
            raise
    finally:
        signal.signal(signal.SIGTERM, before)
    say("stopped")
    if loading := _loading(threads):
        atexit.register(_leave, loading)


def _loading(before: Collection[threading.Thread]) -> list[threading.Thread]:
    """The threads started since that still load a tower: that of a closed registry goes on only while it loads."""
    return [each for each in threading.enumerate() if each not in before and each.name in (LOADING, WATCHING)]


def _leave(loading: Iterable[threading.Thread]) -> None:
    # TensorFlow aborts a process whose interpreter ends while a thread traces a function.
    if any(thread.is_alive() for thread in loading):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _serve(arguments: Namespace) -> None:
    from vse_tf.serving.same_origin import is_loopback, own_names  # noqa: PLC0415

    # A name to listen on is one to be called by; an IPv6 address is no name.
    names = own_names([*arguments.hosts, *([arguments.host] if ":" not in arguments.host else [])])
    run = _RunSource(arguments) if arguments.run is not None else None
    if run is None:
        _models(arguments)
    local = is_loopback(arguments.host)
    if not local:
        print(
            f"warning: --host {arguments.host} lets other machines send requests; this is a development server without "
            "access control: put the proxy of the serving kit (export/) before it, or leave --host at 127.0.0.1",
            file=sys.stderr,
            flush=True,
        )
    from vse_tf.serving.http import make_app, make_server  # noqa: PLC0415
    from vse_tf.serving.pages import GalleryRoute, page_route  # noqa: PLC0415
    from vse_tf.serving.photos import PhotoRoute  # noqa: PLC0415
    from vse_tf.serving.registry import Registry  # noqa: PLC0415
    from vse_tf.serving.rest import RestApi  # noqa: PLC0415

    registry = Registry(lambda: _models(arguments), _load_version, say)
    limit = arguments.max_body_bytes
    routes: list[Route] = []
    api = RestApi(registry)
    app = make_app(api, limit, routes, names)
    server = make_server(app, arguments.host, arguments.port, arguments.workers, limit, arguments.timeout)
    try:
        # The port is taken, but nothing is accepted before the first versions answer: as the real server has it.
        if run is not None:
            index: Index | None = run.embed()
            run.load(registry)
        else:
            index = _gallery(arguments) if arguments.gallery else None
            _load_first(registry, page=index is not None)
        if not any(registry.serving().values()):
            raise UserError(f"no model could be loaded: {'; '.join(registry.problems())}")
        if index is not None:
            gallery = GalleryRoute(index, full_paths=local, min_relevance=arguments.min_relevance)
            routes += [page_route, PhotoRoute(api, gallery.image_model, limit), gallery]
        address = f"http://{arguments.host}:{server.effective_port}"
        if run is not None:
            say(f"{address}/v1/models/text_tower:predict and {address}/v1/models/image_tower:predict")
            say(f"to serve it in production, export it: {run.export_command()}")
        else:
            serving = registry.serving()
            for name in [config.name for config in _models(arguments)]:
                versions = ", ".join(map(str, serving[name])) or "none" if name in serving else "loading"
                say(f"{address}/v1/models/{name} versions {versions}")
        if index is not None:
            say(f"search page: {address}/")
        say(f"serving at {address} (Ctrl-C stops it)")
        if run is None:
            registry.watch(arguments.poll_seconds)
        server.run()
    finally:
        registry.close()
        server.close()


def _load_first(registry: Registry, page: bool) -> None:
    """Load what has to answer from the start: all models, or for a page the text tower, if there is one."""
    if page:
        # The image tower takes ten times as long; the registry loads it once the page is open.
        registry.look(TEXT_TOWER)
    if not any(registry.serving().values()):
        registry.look()


def _load_version(version: int, folder: Path) -> Servable:
    # TensorFlow: 5 s, which nobody waits for before the first line is printed.
    with starting_tensorflow():
        from vse_tf.serving.loading import load_version  # noqa: PLC0415

    with Phase(f"loading {folder.parent.name}"):
        return load_version(version, folder)


class _RunSource:
    """A run that answers requests itself, and the index of the user's images by it.

    Args:
        arguments: those of the command.

    Raises:
        UserError: there is no such run, or there are no images.
    """

    def __init__(self, arguments: Namespace) -> None:
        from vse_tf.atomic import check_folder  # noqa: PLC0415
        from vse_tf.indexing.embedding_models import RunModel  # noqa: PLC0415
        from vse_tf.indexing.items import image_items  # noqa: PLC0415
        from vse_tf.indexing.shard_items import shard_items  # noqa: PLC0415

        self.model: RunModel = RunModel(arguments.run)
        self.items: Items = shard_items(arguments.images) or image_items(arguments.images)
        self.cached = arguments.index is None
        self.folder = _cached_index(arguments) if self.cached else Path(arguments.index)
        check_folder(self.folder, "--index")
        if not self.cached:
            _check_index(self.folder, self.items, self.model)

    def embed(self) -> Index:
        """Embed what is new."""
        with starting_tensorflow():
            import tensorflow  # noqa: F401, PLC0415
        from vse_tf.artifacts.index import Index  # noqa: PLC0415
        from vse_tf.cache_size import BoundedCache  # noqa: PLC0415
        from vse_tf.indexing.embedding import embed  # noqa: PLC0415

        result = embed(self.items, self.model, self.folder, progress=True, note=lambda line: say(line, sys.stderr))
        counts, *more = result.summary(self.items.ignored)
        if not (result.new or result.changed or result.deleted):
            counts = f"nothing to embed: all {result.unchanged:,} images are as they were"
        print("\n".join([counts, *more]))
        if self.cached:
            # Not before it is embedded, since the claim is a file in its folder.
            BoundedCache(self.folder.parents[1]).claim(self.folder)
        say(f"index: {shell_path(self.folder)}")
        return Index.open(self.folder, self.items.root)

    def load(self, registry: Registry) -> None:
        """Trace the towers, which then answer like exported ones and under the same limits.

        The image tower, which takes longer for the decoding of images, follows in the background.
        """
        import numpy as np  # noqa: PLC0415

        from vse_tf.exporting.towers import image_module, text_module  # noqa: PLC0415
        from vse_tf.serving.servable import Servable  # noqa: PLC0415

        def traced(module: ImageModule | TextModule) -> Servable:
            servable = Servable.of_functions(1, module.signatures(), module)
            # The first call takes longer than the others: it is not left to the first user.
            for name in servable.inputs("serving_default"):
                servable.run("serving_default", {name: np.array([], object)})
            return servable

        with Phase(f"loading {TEXT_TOWER}"):
            embedder = self.model.embedder
            embedder.view = replace(embedder.view, max_pixels=min(SERVED_PIXELS, embedder.view.max_pixels))
            text = text_module(embedder)
            registry.add(TEXT_TOWER, lambda: traced(text))
        # A thread, so that the page opens meanwhile.
        say(f"{IMAGE_TOWER} 1: loading; until then, only words can be searched for")
        adding = (IMAGE_TOWER, lambda: traced(image_module(embedder)))
        threading.Thread(target=registry.add, args=adding, name=LOADING, daemon=True).start()

    def export_command(self) -> str:
        """The command that exports the run with this gallery."""
        return f"python -m vse_tf.export --run {shell_path(self.model.run)} --gallery {shell_path(self.folder)}"


def _cached_index(arguments: Namespace) -> Path:
    """The folder of the index of these images by this run, in the cache folder."""
    from vse_tf.cache import cache_folder  # noqa: PLC0415
    from vse_tf.config import DataSettings  # noqa: PLC0415

    images, run = (os.path.realpath(path) for path in (arguments.images, arguments.run))
    digest = hashlib.sha256(os.fsencode(f"{images}\0{run}")).hexdigest()[:16]
    return cache_folder(DataSettings()) / "indexes" / f"{Path(images).name[:50]}-{digest}"


def _check_index(folder: Path, items: Items, model: RunModel) -> None:
    """Refuse to replace an index of something else that `--index` names.

    Raises:
        UserError: another model made it, or it is one of other images.
    """
    from vse_tf.artifacts.index import Index  # noqa: PLC0415
    from vse_tf.artifacts.index_manifest import MANIFEST  # noqa: PLC0415
    from vse_tf.indexing.search import check_model  # noqa: PLC0415

    if not (folder / MANIFEST).exists():
        return
    index = Index.open(folder)
    check_model(index, model.identity)
    if index.root is not None and os.path.realpath(index.root) != str(items.root):
        raise UserError(f"--index: {folder} is an index of {index.root}; name another folder, or leave --index out")


def _gallery(arguments: Namespace) -> Index:
    from vse_tf.artifacts.index import Index  # noqa: PLC0415
    from vse_tf.artifacts.index_paths import OutsideError  # noqa: PLC0415
    from vse_tf.serving.pages import check_towers  # noqa: PLC0415

    index = Index.open(arguments.gallery, arguments.root)
    try:
        if index.kind == "images" and len(index):
            index.image(index.item(0))
    except OutsideError as error:
        say(f"the gallery's images are not displayed; {error.filename}: {error.strerror}")
    if arguments.models:
        check_towers(index, Path(arguments.models))
    return index


def _models(arguments: Namespace) -> Sequence[ModelConfig]:
    below = Path(arguments.models) if arguments.models else None
    newest = 0 if arguments.versions == "all" else arguments.versions
    if arguments.models_config:
        models = read_models_config(Path(arguments.models_config), below)
    elif below is not None:
        models = models_below(below, newest)
    else:
        raise UserError(
            "nothing to serve: name a run and images with --run and --images, or the folder of exported models with "
            "--models (or a --models-config)"
        )
    if not models:
        raise UserError(
            f"--models: {below} holds no models; they lie in it as MODEL/VERSION/saved_model.pb, the version a number"
        )
    return with_labels(models, arguments.label)


def _parse(argv: list[str]) -> Namespace:
    parser = command_parser(PROG, DESCRIPTION, examples=EXAMPLES)
    parser.add_argument("--run", type=str | None, help="run folder, which answers itself; with --images")
    parser.add_argument("--images", type=str | None, help="folder of images to search, or a list of their paths")
    parser.add_argument(
        "--index", type=str | None, help="where their index lies, with --run (default: in the cache folder)"
    )
    parser.add_argument(
        "--models", type=str | None, help="folder of exported models, each MODEL/VERSION/saved_model.pb"
    )
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
    parser.add_argument(
        "--min-relevance",
        type=Share,
        default=MIN_RELEVANCE,
        help="below this relevance, from 0 to 1, the page reports no relevant result",
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
    arguments = parser.parse_args(argv)
    of_run = [option for option in OF_RUN if arguments[option] is not None]
    of_models = [option for option in OF_MODELS if arguments[option] != parser.get_default(option)]
    if of_run and of_models:
        raise UserError(
            f"--{of_models[0].replace('_', '-')} does not go with --{of_run[0]}; serve either a run (--run, --images, "
            "--index) or exported models (--models, --gallery)"
        )
    if of_run and (arguments.run is None or arguments.images is None):
        raise UserError("name both the run and the images: --run with a run folder, --images with a folder of images")
    return arguments


class _Stopped(SystemExit):
    """SIGTERM arrived."""


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise _Stopped(0)


if __name__ == "__main__":
    run_command(main)
