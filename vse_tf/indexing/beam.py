"""Embedding as an Apache Beam pipeline (extra `beam`): many workers embed the spans."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from vse_tf.errors import UserError
from vse_tf.files import file_errors
from vse_tf.indexing.embedding import Runner, SpanEmbedder
from vse_tf.indexing.work_folder import Span
from vse_tf.startup import filtered_stderr

# Beam's own defaults run everything in one thread of this process.
_DIRECT = ["--direct_running_mode=multi_processing", "--direct_num_workers=0"]
# Its workers' messages about themselves; errors are shown.
_QUIET = ["--default_sdk_harness_log_level=ERROR"]


def beam_runner(name: str, options: str = "") -> Runner:
    """Embed spans with a Beam runner.

    Workers read images and model and write shards under the paths that the command was given, so these must be on a
    file system that every worker mounts. Each worker process loads the model once.

    Args:
        name: name of the runner, such as `DirectRunner`, `FlinkRunner`, `DataflowRunner`.
        options: options of the runner, as on a command line; without any, the DirectRunner uses one process per core.

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

    own = shlex.split(options) or (_DIRECT if name == "DirectRunner" else [])
    try:
        create_runner(name)
    except ImportError as error:
        raise UserError(f"--runner {name}: it needs the package {error.name}, which is not installed") from None
    except (ValueError, AttributeError) as error:
        raise UserError(f"--runner {name}: Beam has no such runner: {str(error).splitlines()[0]}") from None

    def run(embedder: SpanEmbedder, spans: Sequence[Span]) -> Iterator[str]:
        results = embedder.work.folder / "beam"
        _remove_results(results.parent)
        numbered = list(enumerate(spans))
        given = [f"--runner={name}", *_QUIET, *own]
        pipeline_options = PipelineOptions(given, save_main_session=False)
        logging.getLogger("apache_beam").setLevel(logging.ERROR)
        with filtered_stderr(), beam.Pipeline(options=pipeline_options) as pipeline:
            _ = (
                pipeline
                | beam.Create(numbered)
                | beam.Reshuffle()
                | beam.ParDo(_EmbedSpan(embedder))
                | beam.io.WriteToText(str(results), file_name_suffix=".jsonl")
            )
        yield from _part_names(sorted(results.parent.glob("beam-*.jsonl")), len(spans), name)

    return run


def _remove_results(folder: Path) -> None:
    """Remove the results of an earlier call, and the temporary folders of one that was killed."""
    for old in folder.glob("beam-*"):
        with file_errors(old, "written"):
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink()


def _part_names(files: list[Path], count: int, runner: str) -> Iterator[str]:
    """The names of the parts in the order of their spans.

    Raises:
        UserError: a worker reported an error (the first one is raised), or results are lost.
    """
    results: dict[int, dict[str, str]] = {}
    for file in files:
        with file_errors(file):
            lines = file.read_text().splitlines()
        results.update(json.loads(line) for line in lines)
    for number in range(count):
        if number not in results:
            raise UserError(
                f"--runner {runner}: {count - len(results)} of {count} results are lost; its workers have "
                "to see the output folder under the same path; run the command again, or omit --runner"
            )
        if "error" in results[number]:
            raise UserError(results[number]["error"])
        yield results[number]["part"]


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

    def __init__(self, embedder: SpanEmbedder) -> None:
        self.embedder = embedder

    def setup(self) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    def process(self, element: tuple[int, Span]) -> Iterator[str]:
        number, span = element
        try:
            result = {"part": self.embedder.embed(span).name}
        except UserError as error:
            result = {"error": str(error)}
        yield json.dumps([number, result])
