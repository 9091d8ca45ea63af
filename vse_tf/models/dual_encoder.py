"""The dual encoder: two towers, one space, one training step that is exact on any number of replicas."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from vse_tf.losses.statistics import batch_statistics
from vse_tf.models.projection import head_of


@keras.saving.register_keras_serializable(package="vse_tf")
class DualEncoder(keras.Model):
    """Embeds images and their captions into one space.

    Args:
        image_tower: pixels or features to unit vectors `(batch, dim)`.
        text_tower: token ids `(batch, length)`, −1 as padding, to unit vectors `(batch, dim)`.
        clip_norm: the global batch's gradient is clipped to this norm; 0 switches it off.

    Call arguments:
        inputs: `{"image": …, "text": …}` of the same batch; the image may be the output of the image tower's frozen
            backbone (cached features) instead of pixels.

    Returns:
        float32 `(batch, 2, dim)`: `[:, 0]` image, `[:, 1]` text, unit length.

    Example:
        >>> model = DualEncoder(image_tower, text_tower)
        >>> model.compile(optimizer="adam", loss=ConVSE(temperature=0.1))
        >>> model.fit(batches)  # of ({"image": …, "text": …}, row)
    """

    def __init__(
        self, image_tower: keras.Model, text_tower: keras.Model, clip_norm: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.clip_norm = clip_norm

    def call(self, inputs: dict[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        tower = self.image_tower
        if len(inputs["image"].shape) < len(tower.inputs[0].shape):
            tower = head_of(tower)
        image = tower(inputs["image"], training=training)
        text = self.text_tower(inputs["text"], training=training)
        return keras.ops.stack([image, text], axis=1)

    def build(self, input_shape: Any) -> None:
        # The towers are functional models and come built.
        self.built = True

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return (input_shape["text"][0], 2, self.text_tower.output_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "image_tower": keras.saving.serialize_keras_object(self.image_tower),
            "text_tower": keras.saving.serialize_keras_object(self.text_tower),
            "clip_norm": self.clip_norm,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> DualEncoder:
        towers = {
            key: keras.saving.deserialize_keras_object(config[key], custom_objects=custom_objects, safe_mode=True)
            for key in ("image_tower", "text_tower")
        }
        return cls(**{**config, **towers})

    def train_step(self, data: tuple) -> dict[str, tf.Tensor]:
        """One step; the logs are of the global batch and have one axis, as `fit` over several workers needs it."""
        inputs, rows = data
        with tf.GradientTape() as tape:
            embeddings = self(inputs, training=True)
            loss = self.compute_loss(x=inputs, y=rows, y_pred=embeddings)
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        self.optimizer.apply(self._clipped(tape.gradient(scaled, variables)), variables)
        logs = {"loss": loss}
        replicas = tf.distribute.get_replica_context()
        if replicas.num_replicas_in_sync > 1:
            # Keras divided the replica's loss by the number of replicas.
            logs = {"loss": replicas.all_reduce(tf.distribute.ReduceOp.SUM, loss)}
        logs |= batch_statistics(embeddings[:, 0], embeddings[:, 1], rows)
        return {name: tf.reshape(tf.cast(value, tf.float32), [1]) for name, value in logs.items()}

    def _clipped(self, gradients: list) -> list[tf.Tensor]:
        """The global batch's gradients, clipped, each replica's share of them.

        The optimizer's own `global_clipnorm` would clip every replica's gradient before they are summed, which is
        another method. Hence: sum, clip, and divide by the replicas, since the optimizer sums once more.
        """
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        replicas = tf.distribute.get_replica_context()
        count = replicas.num_replicas_in_sync
        if count > 1:
            gradients = replicas.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        if self.clip_norm:
            scale = getattr(self.optimizer, "dynamic_scale", None)
            limit = self.clip_norm * (1.0 if scale is None else tf.convert_to_tensor(scale))
            gradients, _ = tf.clip_by_global_norm(gradients, limit)
        return [gradient / count for gradient in gradients] if count > 1 else gradients

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Nothing to build: the towers come built, and Keras' attempt fails under MultiWorkerMirroredStrategy."""
        if self.compiled and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
