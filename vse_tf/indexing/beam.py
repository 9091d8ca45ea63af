"""Embedding as an Apache Beam pipeline (extra `beam`): many workers embed the spans."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from vse_tf.atomic import write_text
from vse_tf.errors import UserError
from vse_tf.files import DESCRIPTION_BYTES, file_errors, read_regular
from vse_tf.indexing.embedding import Runner, SpanEmbedder
from vse_tf.indexing.work_folder import Span
from vse_tf.startup import filtered_stderr

# Beam's own defaults run everything in one thread of this process.
_DIRECT = ["--direct_running_mode=multi_processing", "--direct_num_workers=0"]
# Its workers' messages about themselves; errors are shown.
_QUIET = ["--default_sdk_harness_log_level=ERROR"]
# Beam does not know this runner by its short name; by default a killed worker would lose up to 128 finished spans.
_DASK, _DASK_SPANS = "apache_beam.runners.dask.dask_runner.DaskRunner", "--dask_partition_size"
_FULL_NAMES = {"DaskRunner": _DASK}


class Spans(Protocol):
    """Embeds spans in worker processes, into which it is pickled, and passes results on by a place that all see."""

    def begin(self, spans: Sequence[Span]) -> None:
        """Prepare the place; the process of the command calls this."""

    def embed(self, span: Span) -> str:
        """Embed a span; returns the name of its part."""

    def write(self, number: int, result: str) -> None:
        """Store the result of a span; a span that is done twice has the same result."""

    def read(self, number: int) -> str | None:
        """The result of a span; None if there is none."""

    def end(self) -> None:
        """Make the parts ready for the command."""


def beam_runner(name: str, options: str = "", spans_of: Callable[[SpanEmbedder], Spans] | None = None) -> Runner:
    """Embed spans with a Beam runner.

    Workers read images and model and write shards under the paths that the command was given, so these must be on a
    file system that every worker mounts; or all of them are in a bucket (`vse_tf.indexing.remote_spans`). Each worker
    process loads the model once.

    Args:
        name: name of the runner, such as `DirectRunner`, `DaskRunner`, or the full name of its class.
        options: options of the runner, as on a command line; without any, the DirectRunner uses one process per core.
        spans_of: how workers embed and where results go (default: in the index's folder).

    Returns:
        The `runner` of `vse_tf.indexing.embedding.embed`.

    Raises:
        UserError: Beam is not installed, or has no such runner.

    Example:
        embed(image_items("holiday"), model, "holiday.index", runner=beam_runner("DirectRunner"))
    """
    beam = _beam()
    from apache_beam.options.pipeline_options import PipelineOptions  # noqa: PLC0415
    from apache_beam.runners import create_runner  # noqa: PLC0415

    full = _FULL_NAMES.get(name, name)
    own = shlex.split(options) or (_DIRECT if name == "DirectRunner" else [])
    if full == _DASK and not any(option.startswith(_DASK_SPANS) for option in own):
        own.append(f"{_DASK_SPANS}=1")
    try:
        create_runner(full)
    except ImportError as error:
        package = error.name or "dask, distributed"
        raise UserError(f"--runner {name}: it needs the package {package}, which is not installed") from None
    except (ValueError, AttributeError) as error:
        raise UserError(f"--runner {name}: Beam has no such runner: {str(error).splitlines()[0]}") from None

    def run(embedder: SpanEmbedder, spans: Sequence[Span]) -> Iterator[str]:
        place = (spans_of or LocalSpans)(embedder)
        place.begin(spans)
        given = [f"--runner={full}", *_QUIET, *own]
        pipeline_options = PipelineOptions(given, save_main_session=False)
        logging.getLogger("apache_beam").setLevel(logging.ERROR)
        # One branch, and nothing behind it: the runner on Dask computes the last one only, and writes no text files.
        with filtered_stderr(), beam.Pipeline(options=pipeline_options) as pipeline:
            _ = pipeline | beam.Create(list(enumerate(spans))) | beam.Reshuffle() | beam.ParDo(_EmbedSpan(place))
        names = _part_names(place.read, len(spans), name)
        place.end()
        yield from names

    return run


class LocalSpans:
    """Spans whose workers see the index's folder under the same path.

    Args:
        embedder: embeds a span.
    """

    def __init__(self, embedder: SpanEmbedder) -> None:
        self.embedder = embedder
        self.folder = embedder.folder / ".embed" / "results"

    def begin(self, spans: Sequence[Span]) -> None:
        """Remove the results of an earlier call."""
        with file_errors(self.folder, "written"):
            if self.folder.is_symlink():
                self.folder.unlink()
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)

    def embed(self, span: Span) -> str:
        return self.embedder.embed(span).name

    def write(self, number: int, result: str) -> None:
        with file_errors(self.folder, "written"):
            write_text(self._file(number), result)

    def read(self, number: int) -> str | None:
        with file_errors(self.folder):
            path = self._file(number)
            return read_regular(path, DESCRIPTION_BYTES).decode() if path.exists() else None

    def end(self) -> None:
        pass

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.json"


def _part_names(read: Callable[[int], str | None], count: int, runner: str) -> list[str]:
    """The names of the parts in the order of their spans.

    Raises:
        UserError: a worker reported an error (the first one is raised), or results are lost.
    """
    results: list[dict[str, Any] | None] = [
        None if (text := read(n)) is None else json.loads(text) for n in range(count)
    ]
    names = []
    for result in results:
        if result is None:
            raise UserError(
                f"--runner {runner}: {results.count(None)} of {count} results are lost; its workers have to see the "
                "output under the same path, or all of run, images and output are in a bucket; run the command again, "
                "or omit --runner"
            )
        if "error" in result:
            raise UserError(result["error"])
        names.append(result["part"])
    return names


def _beam() -> ModuleType:
    try:
        import apache_beam as beam  # noqa: PLC0415
    except ImportError:
        raise UserError("--runner needs Apache Beam: pip install 'vse_tf[beam]', or omit --runner") from None
    return beam


# Beam warns of its parts that are not installed.
logging.disable(logging.WARNING)
try:
    from apache_beam import DoFn
except ImportError:  # `_beam` raises the error
    DoFn = object
finally:
    logging.disable(logging.NOTSET)


class _EmbedSpan(DoFn):
    """Embeds one span; a UserError is returned as a result, since a pipeline would retry an exception."""

    def __init__(self, place: Spans) -> None:
        self.place = place

    def setup(self) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    def process(self, element: tuple[int, Span]) -> Iterator[int]:
        number, span = element
        try:
            result = {"part": self.place.embed(span)}
        except UserError as error:
            result = {"error": str(error)}
        self.place.write(number, json.dumps(result))
        yield number
