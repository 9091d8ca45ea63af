"""A training run from settings to results: builds the rooms, connects them, and hands over to `fit`."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vse_tf.artifacts.checkpoints import Checkpoints, Position
from vse_tf.artifacts.provenance import fingerprint, provenance
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.config import Settings
from vse_tf.data.bad_images import BadImages
from vse_tf.data.cache import cache_folder
from vse_tf.data.features import CachedFeatures
from vse_tf.data.order import Order
from vse_tf.data.pipeline import ImageView, text_reader, training_batches
from vse_tf.data.records import Collection, Problem, Split
from vse_tf.data.sources import read
from vse_tf.embedder import Embedder, save_model
from vse_tf.errors import UserError
from vse_tf.evaluation.metrics import measure
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.models.feature_cache import CaptionInputs, FeatureCache, ImageInputs, training_views, with_features
from vse_tf.models.gradient_cache import check_micro_batch
from vse_tf.models.image_tower import image_size, image_tower_from_settings
from vse_tf.models.text_tower import text_tower_from_settings
from vse_tf.preprocessing import text
from vse_tf.training.callbacks import BoardWriter, Progress, StepWatch, Validation, thumbnails
from vse_tf.training.collapse import CollapseWatch
from vse_tf.training.continuing import check_continues, facts, finished_results, stays_stopped
from vse_tf.training.distribution import (
    distribute,
    fit_across_workers,
    from_chief,
    is_chief,
    make_strategy,
    same_everywhere,
)
from vse_tf.training.fitting import fit
from vse_tf.training.interruption import Interruption
from vse_tf.training.objective import make_loss, make_temperature
from vse_tf.training.optimizer import make_optimizer
from vse_tf.training.saving import Saving
from vse_tf.training.tensorboard import Board, purge
from vse_tf.training.together import Together, worker_gone
from vse_tf.training.warm_start import warm_start

THUMBNAIL = 96


def train(settings: Settings) -> tuple[RunFolder, dict[str, Any]]:
    """Train a dual encoder, or continue or look up the run that its folder holds.

    Args:
        settings: the run's settings.

    Returns:
        The run folder and its results, as in results.json; no results on a worker that is not the chief.

    Raises:
        UserError: the data, the settings or the run folder do not allow it, or the training has diverged.
        Interrupted: SIGTERM or Ctrl-C, here or at another worker of the run; the finished steps are kept.

    Example:
        >>> run, results = train(parse_settings(["--config", "configs/shapes.yaml"], "train", ""))
        >>> results["best"]["metrics"]["rsum"]
    """
    settings = absolute(settings)
    run = RunFolder.of(settings)
    done = finished_results(run, settings)
    if done is not None:
        return run, done
    with Interruption() as interruption:
        strategy = make_strategy(settings.distribution)
        # TensorFlow takes SIGTERM for itself where there are several workers, and does nothing with it.
        interruption.listen()
        trainer = _Trainer(settings, run, strategy, interruption)
        try:
            return run, trainer.run()
        except tf.errors.OpError as error:
            gone = worker_gone(strategy, error)
            if gone is None:
                raise
            # Told to leave as well, but before it could hear of the others.
            interruption.check()
            raise gone from None
        finally:
            run.lock.release()


def absolute(settings: Settings) -> Settings:
    """The settings with all paths made absolute, so that the run folder works from anywhere."""

    def whole(path: str) -> str:
        return str(Path(path).expanduser().absolute())

    def each(paths: Any) -> Any:
        return [whole(path) for path in paths] if isinstance(paths, list) else paths and whole(paths)

    def preset(encoder: str) -> str:
        kind, _, name = encoder.partition(":")
        return f"{kind}:{whole(name)}" if kind == "hub" and Path(name).expanduser().is_dir() else encoder

    data = settings.data
    data = dataclasses.replace(
        data,
        annotations=each(data.annotations),
        images=each(data.images),
        cache_dir=each(data.cache_dir),
        split_ids=data.split_ids and {name: each(files) for name, files in data.split_ids.items()},
        tfds=dataclasses.replace(data.tfds, data_dir=each(data.tfds.data_dir)),
    )
    weights = settings.image.weights
    image = dataclasses.replace(
        settings.image,
        encoder=preset(settings.image.encoder),
        weights=whole(weights) if Path(weights).expanduser().is_file() else weights,
    )
    text_settings = dataclasses.replace(settings.text, encoder=preset(settings.text.encoder))
    train_settings = dataclasses.replace(settings.train, init_from=each(settings.train.init_from))
    return dataclasses.replace(settings, data=data, image=image, text=text_settings, train=train_settings)


class _Trainer:
    """One training run; the methods are its stages."""

    def __init__(
        self, settings: Settings, run: RunFolder, strategy: tf.distribute.Strategy, interruption: Interruption
    ) -> None:
        self.settings = settings
        self.interruption = interruption
        self.strategy = strategy
        self.chief = is_chief(strategy)
        self.folder = run
        self.checkpoints = Checkpoints(run.checkpoints, settings.train.keep_checkpoints)
        keras.utils.set_random_seed(settings.train.seed)
        if settings.train.deterministic:
            tf.config.experimental.enable_op_determinism()

    def run(self) -> dict[str, Any]:
        settings, train = self.settings, self.settings.train
        begun = self.folder.exists
        if self.chief:
            self.folder.claim()
        collection = read(settings.data, progress=self.chief)
        training, validation = collection.split("train"), _validation_split(collection)
        bad = BadImages(settings.data.on_bad, settings.data.max_pixels, self._note_bad(collection))
        tokenizer = self._tokenizer(training)
        view = self._view(training)
        with self.strategy.scope():
            model = self._towers(training, view, tokenizer)
        images, texts = self._caches(model, tokenizer, view, bad)
        if self.chief:
            self._create_folder(collection, begun)
        measured = images.split(validation) if images else validation
        if images:
            training = images.split(training, training_views(settings.image.flip, settings.data.feature_crops))
        if texts:
            measured, training = texts.split(measured), texts.split(training)
        order = Order(training.records, train.batch_size, settings.data.epoch_over, train.seed)
        with self.strategy.scope():
            self._compile(model, training, order.steps_per_epoch)
        if self.chief:
            save_model(self.folder, model, tokenizer, view)
        known = facts(settings, fingerprint(collection), order.steps_per_epoch)
        start, progress = self._restore(model, tokenizer, known)
        board = Board(self.folder.logs) if self.chief else None
        if board:
            board.hyper_parameters(settings)
        watch = StepWatch(
            train.batch_size, order.steps_per_epoch, board, train.log_steps, start, progress.get("figures")
        )
        measuring = Validation(
            Embedder(model, tokenizer, view, settings),
            measured,
            bad,
            self.folder if self.chief else None,
            watch,
            self.interruption,
            train.patience,
            provenance(settings, collection),
        )
        measuring.rows = list(progress.get("rows", []))
        if progress.get("stopped") and stays_stopped(train, progress["epochs"], progress["patience"]):
            measuring.stopped = progress["stopped"]
        if self.chief:
            self.folder.replace_metrics(measuring.rows)
        if start.epoch < train.epochs and not measuring.stopped:
            batches = partial(self._batches, training, order, view, tokenizer, bad)
            callbacks = self._callbacks(watch, measuring, validation, board, known)
            together = Together(self.strategy, self.interruption)
            try:
                fit(model, batches, watch, callbacks, train.epochs, self.interruption, together)
            except tf.errors.OpError as error:
                raise bad.raised(error) from None
        galleries = self._galleries(measuring.embedder, collection, bad, measuring)
        measuring.write_results(finished=True, galleries=galleries)
        if board:
            board.close()
        # A worker that leaves early takes the others down.
        from_chief(self.strategy, 0.0)
        return (self.folder.read_results() or {}) if self.chief else {}

    def _tokenizer(self, training: Split) -> Any:
        settings = self.settings.text
        kind, _, preset = settings.encoder.partition(":")
        if kind == "hub":
            return text.PresetTokenizer.from_preset(preset, settings.max_tokens)
        return text.WordTokenizer.fit(training.captions, settings.min_count, settings.max_tokens)

    def _view(self, training: Split) -> ImageView:
        image = self.settings.image
        return ImageView.of(image, image_size(image, training.images), self.settings.data.max_pixels, training.images)

    def _towers(self, training: Split, view: ImageView, tokenizer: Any) -> DualEncoder:
        settings, micro_batch = self.settings, self.settings.train.micro_batch
        shape = (*view.size, 3) if view.size else training.images.load(np.zeros([1], np.int64)).shape[1:]
        model = DualEncoder(
            image_tower_from_settings(settings.image, settings.model, shape),
            text_tower_from_settings(settings.text, settings.model, tokenizer.vocabulary_size),
            clip_norm=settings.train.clip_norm,
            temperature=make_temperature(settings.loss),
            micro_batch=micro_batch,
            name="dual_encoder",
        )
        if micro_batch:
            check_micro_batch(model, micro_batch, self.strategy.num_replicas_in_sync)
        return model

    def _caches(
        self, model: DualEncoder, tokenizer: Any, view: ImageView, bad: BadImages
    ) -> tuple[FeatureCache | None, FeatureCache | None]:
        """The caches of the features of images and of captions, if the settings ask for them."""
        data, folder = self.settings.data, cache_folder(self.settings.data)
        images, captions = ImageInputs(view, bad), CaptionInputs(tokenizer, self.settings.text)
        return (
            FeatureCache(model.image_tower, images, folder) if data.features else None,
            FeatureCache(model.text_tower, captions, folder) if data.text_features else None,
        )

    def _compile(self, model: DualEncoder, training: Split, steps_per_epoch: int) -> None:
        settings, train = self.settings, self.settings.train
        optimizer = make_optimizer(train, model, steps_per_epoch)
        if settings.model.precision == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        jit_compile: Any = train.jit_compile
        if jit_compile == "auto":
            # On a CPU XLA made the step on cached features four times slower (256 pairs, 4M weights) and helped no GRU.
            # It is not for several replicas, and needs shapes that a packed GRU does not have.
            packed = settings.text.encoder == "gru" and settings.text.packed
            alone = self.strategy.num_replicas_in_sync == 1
            features = training.images.kind == "features"
            jit_compile = bool(tf.config.list_physical_devices("GPU")) and features and alone and not packed
        model.compile(
            optimizer=optimizer,
            loss=make_loss(settings.loss, optimizer.iterations, steps_per_epoch),
            jit_compile=jit_compile,
        )
        optimizer.build(model.trainable_variables)
        fit_across_workers(model, self.strategy)

    def _create_folder(self, collection: Collection, begun: bool) -> None:
        self.folder.create(self.settings, begun)
        if collection.skipped:
            self.folder.write_skipped(list(collection.skipped))
            print(f"{len(collection.skipped)} problems in the data, left out and listed in {self.folder.skipped}")

    def _restore(self, model: DualEncoder, tokenizer: Any, known: dict[str, Any]) -> tuple[Position, dict[str, Any]]:
        """Continue from the newest whole checkpoint, or begin: fresh, or from another run's weights."""
        found = self.checkpoints.newest()
        if not same_everywhere(self.strategy, found.position.step if found else -1):
            raise UserError(f"train.run_dir: the workers do not see the same {self.folder.path}; share the folder")
        if found is None:
            init_from = self.settings.train.init_from
            if init_from:
                taken = warm_start(model, getattr(tokenizer, "vocabulary", None), init_from)
                if self.chief:
                    print(f"init_from {init_from}: {taken}")
            if self.chief:
                purge(self.folder.logs, -1)
            return Position(0, 0), {}
        if self.settings.train.resume != "force":
            check_continues(found, known)
        self.checkpoints.resume(model, found, tidy=self.chief)
        position = found.position
        if found.progress.get("steps_per_epoch") != known["steps_per_epoch"]:
            # By force: its place in an epoch of another length means nothing.
            position = Position(position.epoch, position.step)
        if self.chief:
            purge(self.folder.logs, position.step)
            within = f", {position.within} steps into the next" if position.within else ""
            print(f"continuing {self.folder.path} after epoch {position.epoch}{within}")
        return position, found.progress

    def _batches(
        self, training: Split, order: Order, view: ImageView, tokenizer: Any, bad: BadImages, epoch: int, step: int
    ) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        settings = self.settings
        read_text = text_reader(training, tokenizer, settings.text)

        def make(shard: tuple[int, int], replicas: int) -> tf.data.Dataset:
            return training_batches(
                training,
                order,
                view,
                read_text,
                bad,
                epoch=epoch,
                step=step,
                workers=settings.data.workers,
                shard=shard,
                replicas=replicas,
            )

        return distribute(self.strategy, settings.train.batch_size, make)

    def _callbacks(
        self, watch: StepWatch, measuring: Validation, validation: Split, board: Board | None, known: dict[str, Any]
    ) -> list[keras.callbacks.Callback]:
        train = self.settings.train
        watching: list[keras.callbacks.Callback] = [watch]
        if train.collapse_steps:
            watching.append(CollapseWatch(measuring.embedder.model.loss, train.batch_size, train.collapse_steps))
        if board is None:
            return watching
        small = None
        if train.examples or train.projector:
            small = thumbnails(validation, THUMBNAIL, self.settings.data.max_pixels)
            if small is not None and isinstance(measuring.split.images, CachedFeatures):
                small = small[measuring.split.images.rows]
        return [
            *watching,
            measuring,
            BoardWriter(board, measuring, small, train.examples, train.projector),
            Progress(train.epochs, watch),
            Saving(
                self.checkpoints,
                watch,
                measuring,
                board,
                train.checkpoint_steps,
                train.checkpoint_minutes,
                known,
            ),
        ]

    def _note_bad(self, collection: Collection) -> Any:
        problems = list(collection.skipped)

        def note(problem: Problem) -> None:
            problems.append(problem)
            print(f"left out: {problem}")
            if self.chief:
                self.folder.write_skipped(problems)

        return note

    def _galleries(
        self, embedder: Embedder, collection: Collection, bad: BadImages, measuring: Validation
    ) -> dict[str, dict[str, float]]:
        """The best model's metrics on every split but train; validation's are known."""
        if not self.chief or measuring.best is None:
            return {}
        self.checkpoints.restore(embedder.model, "best", training=False)
        galleries = {measuring.split.name: measuring.best["metrics"]}
        for name, split in collection.splits.items():
            if name not in ("train", measuring.split.name):
                seen = with_features(split, self.settings.data, embedder.image_tower, embedder.view, bad)
                galleries[name] = measure(embedder.encode_split(seen, bad))
        return galleries


def _validation_split(collection: Collection) -> Split:
    if "val" not in collection.splits:
        raise UserError(
            f"no split 'val' to choose the best model by; the {collection.source} data hold "
            f"{', '.join(collection.splits)}: name one in the caption file, or let images be split with "
            "--data.val_fraction"
        )
    return collection.splits["val"]
