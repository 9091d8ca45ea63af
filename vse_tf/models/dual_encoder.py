"""The dual encoder: two towers, one space, one training step that is exact on any number of replicas."""

from __future__ import annotations

from functools import partial
from typing import Any, Unpack

import keras
import tensorflow as tf

from vse_tf.losses import import_losses
from vse_tf.losses.base import PairLoss
from vse_tf.losses.statistics import batch_statistics
from vse_tf.models.backbones import backbone_of, fine_tuned, tail_of
from vse_tf.models.gradient_cache import cached_gradients
from vse_tf.models.layer_types import LayerOptions, Shape
from vse_tf.models.length_groups import encode_in_groups
from vse_tf.models.projection import head_of
from vse_tf.models.temperature import LearnedTemperature


@keras.saving.register_keras_serializable(package="vse_tf")
class DualEncoder(keras.Model):
    """Embeds images and their captions into one space.

    Args:
        image_tower: pixels or features to unit vectors `(batch, dim)`.
        text_tower: token ids `(batch, length)`, −1 as padding, to unit vectors `(batch, dim)`.
        clip_norm: the global batch's gradient is clipped to this norm; 0 switches it off.
        temperature: makes the loss's temperature (and bias) a weight; None leaves them as the loss has them.
        micro_batch: pairs of the global batch that are encoded at a time, with the gradient of the full batch; 0
            encodes the full batch at once.

    Attributes:
        resting: the pretrained backbones are not trained for now; see `rest`.

    Call arguments:
        inputs: `{"image": …, "text": …}` of the same batch; each may be the output of its tower's frozen backbone
            (cached features) instead of pixels or token ids.

    Call returns:
        float32 `(batch, 2, dim)`: `[:, 0]` image, `[:, 1]` text, unit length.

    Example:
        >>> model = DualEncoder(image_tower, text_tower)
        >>> model.compile(optimizer="adam", loss=ConVSE(temperature=0.1))
        >>> model.fit(batches)  # ({"image": …, "text": …}, image_id)
    """

    def __init__(
        self,
        image_tower: keras.Model,
        text_tower: keras.Model,
        clip_norm: float = 0.0,
        temperature: LearnedTemperature | None = None,
        micro_batch: int = 0,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.clip_norm = clip_norm
        self.temperature = temperature
        self.micro_batch = micro_batch
        self.resting = False

    @property
    def parts(self) -> dict[str, keras.layers.Layer]:
        """The parts that hold the model's weights, by name."""
        parts = {"image_tower": self.image_tower, "text_tower": self.text_tower, "temperature": self.temperature}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def trained_variables(self) -> list[keras.Variable]:
        """The weights that a training step changes: the trainable ones, without those of resting backbones."""
        left_out = {id(variable) for variable in self.backbone_variables} if self.resting else ()
        return [variable for variable in self.trainable_variables if id(variable) not in left_out]

    @property
    def backbone_variables(self) -> list[keras.Variable]:
        """The trainable weights of the pretrained backbones."""
        return fine_tuned(self.image_tower) + fine_tuned(self.text_tower)

    def rest(self, resting: bool) -> None:
        """Let the pretrained backbones rest, or train them again; the next `fit` traces its step anew.

        A resting backbone keeps its weights and runs in inference mode, as a frozen one does, but its weights stay
        trainable: the optimizer and checkpoints have them.

        Args:
            resting: whether they rest.
        """
        if resting != self.resting:
            self.resting, self.train_function = resting, None
            for part in (of(tower) for tower in (self.image_tower, self.text_tower) for of in (backbone_of, tail_of)):
                if part is not None:
                    part.resting = resting

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "rmsprop",
        loss: keras.losses.Loss | None = None,
        **kwargs: Any,
    ) -> None:
        if self.temperature is not None:
            self.temperature.bind(loss)
        super().compile(optimizer=optimizer, loss=loss, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        # Keras calls this if `compile` is overridden. Only an imported loss is found by its registered name.
        import_losses()
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def call(self, inputs: dict[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        tower = self.image_tower
        if len(inputs["image"].shape) < len(tower.inputs[0].shape):
            tower = head_of(tower)
        image = tower(inputs["image"], training=training)
        reads_tokens = keras.backend.is_int_dtype(inputs["text"].dtype)
        tower = self.text_tower if reads_tokens else head_of(self.text_tower)
        encode = partial(tower, training=training)
        # XLA needs shapes that do not depend on the captions.
        in_groups = training and fine_tuned(tower) and not (self.compiled and self.jit_compile)
        text = encode_in_groups(encode, inputs["text"]) if in_groups else encode(inputs["text"])
        return keras.ops.stack([image, text], axis=1)

    def build(self, input_shape: dict[str, Shape]) -> None:
        # The towers are functional models and built already.
        self.built = True

    def compute_output_shape(self, input_shape: dict[str, Shape]) -> Shape:
        return (input_shape["text"][0], 2, self.text_tower.output_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **{name: keras.saving.serialize_keras_object(part) for name, part in self.parts.items()},
            "clip_norm": self.clip_norm,
            "micro_batch": self.micro_batch,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, type] | None = None) -> DualEncoder:
        parts = {
            key: keras.saving.deserialize_keras_object(config[key], custom_objects=custom_objects, safe_mode=True)
            for key in ("image_tower", "text_tower", "temperature")
            if config.get(key)
        }
        return cls(**{**config, **parts})

    def train_step(self, data: tuple[dict[str, tf.Tensor], tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step; logs describe the global batch and are vectors of length 1, as `fit` on several workers needs."""
        inputs, image_id = data
        replicas = tf.distribute.get_replica_context()
        size = self.micro_batch // replicas.num_replicas_in_sync
        if size and size != inputs["text"].shape[0]:
            loss, embeddings, gradients = cached_gradients(self, inputs, image_id, size)
        else:
            with tf.GradientTape() as tape:
                embeddings = self(inputs, training=True)
                loss = self.compute_loss(x=inputs, y=image_id, y_pred=embeddings)
                scaled = self.optimizer.scale_loss(loss)
            gradients = tape.gradient(scaled, self.trained_variables)
        logs = {"loss": loss}
        if replicas.num_replicas_in_sync > 1:
            # Keras divided the replica's loss by the number of replicas.
            logs = {"loss": replicas.all_reduce(tf.distribute.ReduceOp.SUM, loss)}
        logs |= batch_statistics(embeddings[:, 0], embeddings[:, 1], image_id)
        if isinstance(self.loss, PairLoss):
            logs |= self.loss.scalars()
        logs = {name: tf.reshape(tf.cast(value, tf.float32), [1]) for name, value in logs.items()}
        self.optimizer.apply(self._clipped(gradients), self.trained_variables)
        return logs

    def _clipped(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """The clipped gradients of the global batch, divided by the number of replicas.

        The optimizer's own `global_clipnorm` would clip the gradient of each replica before they are summed, which is
        another method. So they are summed and clipped here, and divided because the optimizer sums them once more.
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
