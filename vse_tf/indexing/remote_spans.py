"""Embedding by workers that share nothing but a bucket: run, shards of images and index are there.

The command writes the list of items to the index's own place and reads the results there; a worker reads the lines of
its span, fetches the shards of images that the span needs into its own cache, and writes the vectors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from vse_tf.addresses import allow_again, allowed, is_address
from vse_tf.artifacts.shards import Shard
from vse_tf.cache import cache_folder
from vse_tf.cache_size import BoundedCache
from vse_tf.config import DataSettings, OnBad
from vse_tf.errors import UserError
from vse_tf.files import DESCRIPTION_BYTES
from vse_tf.indexing.embedding import SpanEmbedder
from vse_tf.indexing.embedding_models import RunModel
from vse_tf.indexing.items import Items
from vse_tf.indexing.reuse import MISSING, equal_shard, shard_numbers
from vse_tf.indexing.shard_items import ShardItems
from vse_tf.indexing.work_folder import WORK_FOLDER, Span, WorkFolder
from vse_tf.remote.copies import bring
from vse_tf.remote.filesystem import download, listed, missing, read_object, read_range, remove, upload, version
from vse_tf.remote.shards import Mirror

SPANS = f"{WORK_FOLDER}/spans"
# The models of this process: a runner may make an object for each span.
_models: dict[tuple[str, str, int | None], RunModel] = {}
_loading = threading.Lock()


@dataclass(frozen=True)
class RemoteRun:
    """A run in a bucket, for workers that load it themselves.

    Args:
        address: its address.
        checkpoint: `best` or `last`.
        batch_size: number of items per batch (default: the run's).
        model_id: identity of the model that the command has read.
    """

    address: str
    checkpoint: str
    batch_size: int | None
    model_id: str

    def load(self) -> RunModel:
        """The model, loaded once per process.

        Raises:
            UserError: the run in the bucket has changed since the command began.
        """
        with _loading:
            key = (self.address, self.checkpoint, self.batch_size)
            if key not in _models:
                _models[key] = RunModel(self.address, self.checkpoint, self.batch_size)
                _ = _models[key].embedder
            model = _models[key]
        if model.identity["id"] != self.model_id:
            raise UserError(f"{self.address}: the run has changed since this command began; repeat the command")
        return model


class RemoteSpans:
    """Spans of an index in a bucket.

    Args:
        embedder: the command's, whose folder is a copy of the index.
        address: the index's address.
        run: the run's address.
        batch_size: as `--batch_size`.

    Raises:
        UserError: run or collection are not in a bucket.
    """

    def __init__(self, embedder: SpanEmbedder, address: str, run: str, batch_size: int | None) -> None:
        identity = embedder.model.identity
        self.folder = embedder.folder
        self.address = address
        self.run = RemoteRun(run, identity["checkpoint"], batch_size, identity["id"])
        # A worker needs the shards of its span only, which the span's items name.
        shards = isinstance(embedder.collection, ShardItems)
        self.collection: Items = replace(embedder.collection, shards=()) if shards else embedder.collection  # type: ignore[call-arg]
        self.sources: tuple[Shard, ...] = embedder.sources
        self.on_bad: OnBad = embedder.on_bad
        self.typed = allowed()

    def begin(self, spans: Sequence[Span]) -> None:
        """Write the items and where their vectors are; remove what an earlier call left."""
        there = listed(self.address)
        for name in there:
            if name.startswith(f"{SPANS}/"):
                remove(f"{self.address}/{name}")
        for shard in self.sources:
            # One that a killed call had made on this machine alone.
            if shard.name not in there:
                upload(f"{self.address}/{shard.name}", b"", str(self.folder / shard.name))
        work = WorkFolder(self.folder, self.run.model_id)
        upload(f"{self.address}/{WORK_FOLDER}/model", self.run.model_id)
        for path in (work.lines, work.locations):
            upload(f"{self.address}/{SPANS}/{path.name}", b"", str(path))

    def embed(self, span: Span) -> str:
        """Embed a span in a folder of its own, and write its vectors and its record to the index's place."""
        allow_again(self.typed)
        model = self.run.load()
        with TemporaryDirectory() as scratch:
            folder = Path(scratch, "index")
            embedder = SpanEmbedder(folder, self._collection(), self.sources, model, self.on_bad)
            self._fetch_items(embedder.work, span)
            part = embedder.embed(Span(0, span.rows, 0, span.size))
            if part.shard is not None and (folder / part.shard.name).exists():
                upload(f"{self.address}/{part.shard.name}", b"", str(folder / part.shard.name))
            record = embedder.work.folder / part.name
            upload(f"{self.address}/{WORK_FOLDER}/{part.name}", b"", str(record))
        return part.name

    def write(self, number: int, result: str) -> None:
        upload(f"{self.address}/{SPANS}/{number}.json", result)

    def read(self, number: int) -> str | None:
        try:
            return read_object(f"{self.address}/{SPANS}/{number}.json", DESCRIPTION_BYTES).decode()
        except FileNotFoundError:
            return None

    def end(self) -> None:
        """Bring the shards and their records to the command's machine."""
        bring(self.address, self.folder, skip=(f"{SPANS}/*",), tidy=False)

    def _collection(self) -> Items:
        if self.collection.address is None:
            return self.collection
        settings = DataSettings()
        root = Mirror(
            self.collection.address, BoundedCache(cache_folder(settings).absolute(), settings.cache_size)
        ).root
        return replace(self.collection, root=root, source=root)

    def _fetch_items(self, work: WorkFolder, span: Span) -> None:
        """The lines of a span, and the shards with vectors that it reuses."""
        place = f"{self.address}/{SPANS}"
        lines = read_range(f"{place}/{work.lines.name}", span.offset, span.offset + span.size)
        places = read_range(f"{place}/{work.locations.name}", 8 * span.first, 8 * (span.first + span.rows))
        work.lines.write_bytes(lines)
        work.locations.write_bytes(places)
        locations = np.frombuffer(places, np.int64)
        if equal_shard(list(self.sources), locations) is None:
            for number in shard_numbers(locations[locations != MISSING]):
                name = self.sources[number].name
                found = version(f"{self.address}/{name}")
                if found is None:
                    raise missing(f"{self.address}/{name}")
                with (work.index_folder / name).open("wb") as file:
                    download(f"{self.address}/{name}", found, file)


def remote_spans(
    address: str, run: str | None, items: Items, batch_size: int | None
) -> Callable[[SpanEmbedder], RemoteSpans]:
    """What `beam_runner` takes for an index in a bucket.

    Raises:
        UserError: the run or the collection is on this machine.
    """
    if not is_address(run) or (items.kind == "images" and items.address is None):
        raise UserError(
            "--runner: with --output in a bucket, name --run and --images there too: workers share nothing else"
        )
    return lambda embedder: RemoteSpans(embedder, address, run, batch_size)
