"""A trained model, in memory or in a run folder: there it is rebuilt part by part, as the parts are needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras

from vse_tf.artifacts.checkpoint_files import check_state, required_checkpoint
from vse_tf.artifacts.checkpoints import Checkpoints
from vse_tf.artifacts.rebuilding import Description
from vse_tf.artifacts.run_folder import ADVICE, RunFolder
from vse_tf.atomic import atomic_folder, write_json
from vse_tf.config import Settings
from vse_tf.display import part
from vse_tf.errors import UserError
from vse_tf.files import file_errors
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.models.encoders import encoder_module
from vse_tf.preprocessing import text
from vse_tf.preprocessing.view import ImageView


@dataclass(frozen=True)
class TrainedModel:
    """A model in memory, as `StoredModel` is one in a run folder.

    Args:
        dual_encoder: the model.
        tokenizer: its tokenizer.
        view: how images are prepared.
    """

    dual_encoder: DualEncoder
    tokenizer: text.Tokenizer
    view: ImageView

    @property
    def image_tower(self) -> keras.Model:
        """The tower of images."""
        return self.dual_encoder.image_tower

    @property
    def text_tower(self) -> keras.Model:
        """The tower of captions."""
        return self.dual_encoder.text_tower


class StoredModel:
    """The model of a run. Each part is rebuilt, checked and filled when it is first used.

    Words need no image tower and images no text tower, and the encoder of either may take seconds to import. All parts
    are of the checkpoint that was the best (or last) one when the object was made.

    Args:
        run: the run folder.
        checkpoint: `best` or `last`.
        settings: the run's settings, where they have been read already.

    Attributes:
        settings: the run's settings.
        view: how images are prepared.

    Raises:
        UserError: there is no run, it has no checkpoint yet, or one of its files is damaged. Every part raises it too.

    Example:
        >>> StoredModel("runs/shapes-convse-0").text_tower(token_ids).shape
        TensorShape([3, 128])
    """

    def __init__(self, run: str | Path, checkpoint: str = "best", settings: Settings | None = None) -> None:
        self._folder = folder = RunFolder(run)
        self.settings = settings or folder.settings()
        if not folder.model.exists():
            raise UserError(f"{folder.path}: the run has no model yet; it stopped before training began: train again")
        self._description = Description(folder.model)
        self.view = self._description.view
        self._checkpoints = Checkpoints(folder.checkpoints)
        self._checkpoint = required_checkpoint(folder.checkpoints, checkpoint)
        check_state(self._checkpoint)

    @cached_property
    def image_tower(self) -> keras.Model:
        """See `build_image_tower`."""
        # Registers the layers that the description may name.
        encoder_module(self.settings.image.encoder, "image.encoder")
        return self._tower("image_tower")

    @cached_property
    def text_tower(self) -> keras.Model:
        """See `build_text_tower`."""
        encoder_module(self.settings.text.encoder, "text.encoder")
        tower, tokenizer = self._tower("text_tower"), self.tokenizer
        embedding = next((layer for layer in tower.layers if layer.name == "word_embedding"), None)
        if isinstance(embedding, keras.layers.Embedding) and embedding.input_dim < tokenizer.vocabulary_size:
            raise UserError(
                f"{self._folder.tokenizer}: {tokenizer.vocabulary_size} words, but the model knows "
                f"{embedding.input_dim}; copy the run folder again"
            )
        return tower

    @cached_property
    def tokenizer(self) -> text.Tokenizer:
        """The tokenizer of the text tower."""
        return text.load_tokenizer(self._folder.tokenizer)

    @cached_property
    def dual_encoder(self) -> DualEncoder:
        """The complete model."""
        towers = {"image_tower": self.image_tower, "text_tower": self.text_tower}
        return self._description.assemble({**towers, "temperature": self._part("temperature")})

    def _tower(self, name: str) -> keras.Model:
        with part("loading the model"):
            tower, dim = self._part(name), self.settings.model.dim
        if tower.output_shape[-1] != dim:
            raise UserError(
                f"{self._folder.model}: the {name} gives vectors of {tower.output_shape[-1]} dimensions, but model.dim "
                f"is {dim} in {self._folder.config.name}; copy the run folder again"
            )
        return tower

    def _part(self, name: str) -> Any:
        built = self._description.part(name, lambda built: self._checkpoints.check({name: built}, self._checkpoint))
        if built is not None:
            self._checkpoints.fill({name: built}, self._checkpoint)
        return built


def save_model(folder: RunFolder, model: DualEncoder, tokenizer: text.Tokenizer, view: ImageView) -> None:
    """Write the model's description, the image view and the tokenizer into a run folder."""
    description = {"model": model.get_config(), "view": view.to_dict()}
    with file_errors(folder.model, "written", ADVICE):
        write_json(folder.model, description)
    with atomic_folder(folder.tokenizer, ADVICE) as temporary:
        tokenizer.save(temporary)
