"""Builds what a run is made of: the model, and what turns the data into its input."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vse_tf.artifacts.checkpoints import Checkpoints
from vse_tf.artifacts.provenance import provenance
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.config import Settings, TextSettings
from vse_tf.data.bad_images import BadImages
from vse_tf.data.order import Order
from vse_tf.data.pipeline import text_reader, training_batches
from vse_tf.data.records import Collection, Split, array_size
from vse_tf.embedder import Embedder, TrainedModel
from vse_tf.errors import UserError
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.models.feature_cache import CaptionInputs, FeatureCache, ImageInputs, feature_cache, training_views
from vse_tf.models.gradient_cache import check_micro_batch
from vse_tf.models.image_tower import image_size, image_tower_from_settings
from vse_tf.models.text_tower import text_tower_from_settings
from vse_tf.preprocessing import text
from vse_tf.preprocessing.view import ImageView
from vse_tf.training.auto_settings import Kind, choose, choose_text, uses_xla
from vse_tf.training.distribution import distribute, skip_symbolic_build
from vse_tf.training.objective import make_loss, make_temperature, with_values
from vse_tf.training.optimizer import make_optimizer


class RunParts:
    """What a run is made of, built as its settings describe it for its data.

    Args:
        settings: the run's settings.
        run: the run folder.
        collection: the data.
        strategy: the strategy to train under.
        bad: what to do with images that cannot be read.

    Attributes:
        checkpoints: the run's checkpoints.
        training: the split train.
        validation: the split val.
        tokenizer: turns captions into token ids.
        view: how images are prepared.
        model: the dual encoder.
        order: the order of the training split, once `prepare_splits` has run.
        settings: the settings, with what this run has chosen in place of `auto`.
        notes: what the user should know of these choices, one line each.

    Raises:
        UserError: settings and data do not go together.
    """

    order: Order

    def __init__(
        self,
        settings: Settings,
        run: RunFolder,
        collection: Collection,
        strategy: tf.distribute.Strategy,
        bad: BadImages,
    ) -> None:
        self.settings = settings = choose_text(settings)
        self.run = run
        self.checkpoints = Checkpoints(run.checkpoints, settings.train.keep_checkpoints)
        self.collection = collection
        self.strategy = strategy
        self.bad = bad
        self.training = collection.split("train")
        self.validation = _validation_split(collection)
        self.tokenizer = _tokenizer(settings.text, self.training)
        data, images = settings.data, self.training.images
        size = image_size(settings.image, images)
        self._loss = with_values(settings)
        self.view = ImageView.of(settings.image, size, data.max_pixels, array_size(images))
        self.model = self._build_model()
        caches = self._caches()
        self.settings, self.notes = choose(settings, collection, caches, strategy)
        data = self.settings.data
        self._image_cache = caches["features"] if data.features else None
        self._text_cache = caches["text_features"] if data.text_features else None

    def prepare_splits(self) -> None:
        """Replace images and captions by cached features where the settings ask for them, and set the order.

        Missing features are computed; images that cannot be read leave the splits.

        Raises:
            UserError: an image cannot be read, the cache cannot be written, or an epoch has fewer pairs than a batch.
        """
        data, train = self.settings.data, self.settings.train
        self.validation = self.with_image_features(self.validation)
        if self._image_cache and train.epochs:
            views = training_views(self.settings.image.flip, int(data.feature_crops))
            self.training = self._image_cache.split(self.training, views)
        if self._text_cache:
            self.validation = self._text_cache.split(self.validation)
        if self._text_cache and train.epochs:
            self.training = self._text_cache.split(self.training)
        self.order = Order(self.training.records, train.batch_size, data.epoch_over, train.seed)

    def with_image_features(self, split: Split) -> Split:
        """A split to measure: with cached features of its images, where the settings ask for them."""
        return self._image_cache.split(split) if self._image_cache else split

    def compile(self) -> None:
        """Compile the model with the optimizer and the loss that the settings describe, and build the optimizer."""
        settings, train, model, strategy = self.settings, self.settings.train, self.model, self.strategy
        steps_per_epoch = self.order.steps_per_epoch
        on_features = self.training.images.kind == "features"
        with strategy.scope():
            optimizer = make_optimizer(train, model, steps_per_epoch)
            if settings.model.precision == "mixed_float16":
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            model.compile(
                optimizer=optimizer,
                loss=make_loss(self._loss, optimizer.iterations, steps_per_epoch),
                jit_compile=uses_xla(settings, on_features, strategy.num_replicas_in_sync),
            )
            optimizer.build(model.trainable_variables)
            skip_symbolic_build(model, strategy)

    @cached_property
    def embedder(self) -> Embedder:
        """The model in training, to measure it."""
        return Embedder(TrainedModel(self.model, self.tokenizer, self.view), self.settings)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Where the results come from: versions, settings, data."""
        return provenance(self.settings, self.collection)

    def batches(self, epoch: int, step: int) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        """Endless training batches; every worker reads its slice of each.

        Args:
            epoch: the epoch to begin with.
            step: the step of that epoch to begin with.

        Raises:
            UserError: the batch size is not a multiple of the number of replicas.
        """
        make = partial(
            training_batches,
            self.training,
            self.order,
            self.view,
            text_reader(self.training, self.tokenizer, self.settings.text),
            self.bad,
            epoch=epoch,
            step=step,
            workers=self.settings.data.workers,
        )
        return distribute(self.strategy, self.settings.train.batch_size, make)

    def _caches(self) -> dict[Kind, FeatureCache | None]:
        """The feature caches that the settings ask for; with `auto`, those of a frozen backbone."""
        data, splits = self.settings.data, self.collection.splits.values()
        caches: dict[Kind, FeatureCache | None] = {"features": None, "text_features": None}
        if data.features is True or (data.features and all(split.images.kind == "files" for split in splits)):
            inputs = ImageInputs(self.view, self.bad)
            caches["features"] = feature_cache(self.model.image_tower, inputs, data, data.features is True)
        if data.text_features:
            captions = CaptionInputs(self.tokenizer, self.settings.text)
            caches["text_features"] = feature_cache(self.model.text_tower, captions, data, data.text_features is True)
        return caches

    def _build_model(self) -> DualEncoder:
        settings, size, micro_batch = self.settings, self.view.size, self.settings.train.micro_batch
        image_shape = (*size, 3) if size else self.training.images.load(np.zeros([1], np.int64)).shape[1:]
        with self.strategy.scope():
            model = DualEncoder(
                image_tower_from_settings(settings.image, settings.model, image_shape),
                text_tower_from_settings(settings.text, settings.model, self.tokenizer.vocabulary_size),
                clip_norm=settings.train.clip_norm,
                temperature=make_temperature(self._loss),
                micro_batch=micro_batch,
                name="dual_encoder",
            )
        _check_model(settings, model)
        if micro_batch:
            check_micro_batch(model, micro_batch, self.strategy.num_replicas_in_sync)
        return model


def _check_model(settings: Settings, model: DualEncoder) -> None:
    """Refuse towers without heads that do not fit each other, or of which nothing is trained."""
    image, text = (tower.output_shape[-1] for tower in (model.image_tower, model.text_tower))
    if image != text:
        raise UserError(
            f"model.head: none, but image.encoder {settings.image.encoder} gives vectors of {image} dimensions and "
            f"text.encoder {settings.text.encoder} of {text}; give true or false"
        )
    if image != settings.model.dim:
        raise UserError(
            f"model.dim: {settings.model.dim}, but with model.head none the vectors have {image} dimensions; give "
            f"--model.dim {image}"
        )
    if settings.train.epochs and not model.trainable_variables:
        raise UserError(
            f"train.epochs: {settings.train.epochs}, but with model.head none and frozen encoders nothing is trained; "
            "give 0 to measure and save the model as it is, or set --image.trainable or --text.trainable"
        )
    only_backbones = len(model.backbone_variables) == len(model.trainable_variables)
    if settings.train.epochs and settings.train.unfreeze_epoch and only_backbones:
        raise UserError(
            f"train.unfreeze_epoch: {settings.train.unfreeze_epoch}, but with model.head none nothing else than the "
            "backbones is trained; set it to 0, or model.head to false"
        )


def _tokenizer(settings: TextSettings, training: Split) -> text.WordTokenizer | text.PresetTokenizer:
    kind, _, preset = settings.encoder.partition(":")
    if kind == "hub":
        return text.PresetTokenizer.from_preset(preset, settings.max_tokens)
    return text.WordTokenizer.fit(training.captions, settings.min_count, settings.max_tokens)


def _validation_split(collection: Collection) -> Split:
    if "val" not in collection.splits:
        few = len(collection.split("train")) < 2
        raise UserError(
            f"no split 'val' to choose the best model by; the {collection.source} data hold "
            f"{', '.join(collection.splits)}: "
            + ("two images are needed at least" if few else "set --data.val_fraction above 0 to take images of train")
        )
    return collection.splits["val"]
