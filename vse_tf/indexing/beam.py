"""Embedding as an Apache Beam pipeline (extra `beam`): the same spans, done by many workers."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from vse_tf.errors import UserError
from vse_tf.files import file_errors
from vse_tf.indexing.embedding import Job, Runner
from vse_tf.indexing.work import Span

# Beam's own defaults run everything in one thread of this process.
_DIRECT = ["--direct_running_mode=multi_processing", "--direct_num_workers=0"]


def beam_runner(name: str, options: str = "") -> Runner:
    """Does the spans of a job by a Beam runner.

    Workers read the photos and the model, and write shards, under the paths that the command was given: all of them lie
    on a file system that every worker mounts. Each worker process loads the model once.

    Args:
        name: of the runner, such as `DirectRunner`, `FlinkRunner`, `DataflowRunner`.
        options: the runner's own options, as on a command line; without any, the DirectRunner takes a process a core.

    Returns:
        The `runner` of `vse_tf.indexing.embedding.embed`.

    Raises:
        UserError: Beam is not installed, or there is no such runner.

    Example:
        >>> embed(photos("holiday"), encoder, "holiday.index", runner=beam_runner("DirectRunner"))
    """
    beam = _beam()
    from apache_beam.options.pipeline_options import PipelineOptions  # noqa: PLC0415
    from apache_beam.runners import create_runner  # noqa: PLC0415

    own = shlex.split(options) or (_DIRECT if name == "DirectRunner" else [])
    try:
        create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--runner {name}: Beam has no such runner: {str(error).splitlines()[0]}") from None

    def run(job: Job, spans: Sequence[Span]) -> Iterator[str]:
        results = job.work.folder / "beam"
        for old in results.parent.glob("beam-*"):
            with file_errors(old, "written"):
                old.unlink()
        numbered = list(enumerate(spans))
        pipeline_options = PipelineOptions([f"--runner={name}", *own], save_main_session=False)
        with beam.Pipeline(options=pipeline_options) as pipeline:
            _ = (
                pipeline
                | beam.Create(numbered)
                | beam.Reshuffle()
                | beam.ParDo(_Do(job))
                | beam.io.WriteToText(str(results), file_name_suffix=".jsonl")
            )
        yield from _names(sorted(results.parent.glob("beam-*.jsonl")), len(spans))

    return run


def _names(files: list[Any], count: int) -> Iterator[str]:
    """The names of the parts in the order of their spans.

    Raises:
        UserError: the first thing that a worker could not do.
    """
    found: dict[int, dict[str, str]] = {}
    for file in files:
        with file_errors(file):
            lines = file.read_text().splitlines()
        for line in lines:
            number, result = json.loads(line)
            found[number] = result
    for number in range(count):
        result = found.get(number, {"error": f"the runner gave no result for part {number}; run the command again"})
        if "error" in result:
            raise UserError(result["error"])
        yield result["part"]


def _beam() -> Any:
    try:
        import apache_beam as beam  # noqa: PLC0415
    except ImportError:
        raise UserError("--runner needs Apache Beam: pip install 'vse_tf[beam]', or leave --runner away") from None
    return beam


try:
    from apache_beam import DoFn
except ImportError:  # said by `_beam`
    DoFn = object


class _Do(DoFn):
    """Does one span; what a user can put right travels back as a result, for a pipeline would repeat an error."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def setup(self) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    def process(self, element: tuple[int, Span]) -> Iterator[str]:
        number, span = element
        try:
            result = {"part": self.job.do(span).name}
        except UserError as error:
            result = {"error": str(error)}
        yield json.dumps([number, result])
