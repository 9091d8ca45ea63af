"""The run's settings: a frozen dataclass per section. No TensorFlow is imported here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from vse_tf.data_settings import DataSettings, OnBad, ShapesSettings, TableSettings, TfdsSettings, Verify
from vse_tf.losses.registry import LOSSES
from vse_tf.setting_types import (
    LARGEST,
    Above0,
    BucketAddress,
    Count,
    CountOrNone,
    EncoderName,
    Epochs,
    EpochsOrNone,
    Few,
    Free,
    From0,
    Kept,
    Length,
    OutputPath,
    Range,
    Rate,
    RemotePath,
    Seed,
    Share,
    Side,
    Unit,
    Weights,
    Width,
    WidthOrNone,
)
from vse_tf.used_settings import NUMBER, UsedIf

__all__ = [
    "DataSettings",
    "DistributionSettings",
    "ImageSettings",
    "LossName",
    "LossSettings",
    "ModelSettings",
    "OnBad",
    "Settings",
    "ShapesSettings",
    "TableSettings",
    "TextSettings",
    "TfdsSettings",
    "TrainSettings",
    "Verify",
    "to_dict",
]

Monitor: TypeAlias = Literal[
    "rsum",
    "i2t_r1",
    "i2t_r5",
    "i2t_r10",
    "i2t_medr",
    "i2t_meanr",
    "t2i_r1",
    "t2i_r5",
    "t2i_r10",
    "t2i_medr",
    "t2i_meanr",
]
LossName: TypeAlias = str
Pooling: TypeAlias = Literal["mean", "mean_max", "attention", "attention_max"]
if not TYPE_CHECKING:
    # One of the registry's names: a type that mypy cannot express.
    LossName = Literal[tuple(LOSSES)]
PIXELS = UsedIf("image.encoder", "cnn", "applications", "hub")
PRETRAINED = UsedIf("image.encoder", "applications", "hub")
POOLED = UsedIf("image.encoder", "applications", "hub", "features")
GRU = UsedIf("text.encoder", "gru")
TRANSFORMER = UsedIf("text.encoder", "transformer")
WORDS = UsedIf("text.encoder", "gru", "transformer")
HUB = UsedIf("text.encoder", "hub")
BACKBONES = UsedIf(("image.trainable", "text.trainable"), True, NUMBER)
STEP = UsedIf("train.schedule", "step")
LEARNED = UsedIf("loss.learned", True, named="loss.learn_temperature")


def _losses_with(setting: str) -> UsedIf:
    return UsedIf("loss.name", *(name for name, loss in LOSSES.items() if setting in loss.settings))


@dataclass(frozen=True)
class ImageSettings:
    """The image tower's input and encoder.

    Args:
        encoder: cnn (small, from scratch) | features (precomputed) | applications:<Name> | hub:<preset name or folder>.
        weights: applications only: imagenet, none, or a weights file.
        trainable: applications, hub only: fine-tune the pretrained backbone (true), or its last n blocks or layers, on
            cached states of the frozen part (n); cnn always trains.
        size: cnn, applications, hub only: height and width in pixels that the encoder sees, one number or two (default:
            the encoder's own size).
        resize: cnn, applications, hub only: evaluation resizes the shorter side to this before the centre crop
            (default: size * 256 / 224).
        random_crop: cnn, applications, hub only: train on random crops (RandomResizedCrop) instead of centre crops.
        crop_scale: cnn, applications, hub only: smallest and largest share of the image's area in a random crop.
        flip: cnn, applications, hub only: mirror training images at random.
        stages: applications, hub only, of convolutional backbones: number of last stages whose maps, concatenated, give
            the feature; 1 takes the last map alone.
        pooling: applications, hub, features only: how a map, tokens or regions become one feature: mean, mean and
            maximum concatenated (mean_max), averages with learned weights (attention), or these and the maximum
            (attention_max).
        queries: attention, attention_max only: number of averages, concatenated.
        units: cnn, or model.head true or false only: width of the dense layer between encoder and head; 0 leaves it
            out.
        channels: cnn only: channels of its strided convolutions.
        eval_views: cnn, applications, hub only: an image's vector is that of its centre view, or the mean of the
            vectors of that and of its mirror image (centre_flip), in evaluation, search and export; two views cost
            the encoder twice.
    """

    encoder: EncoderName = "applications:EfficientNetB0"
    weights: Annotated[Weights, UsedIf("image.encoder", "applications")] = "imagenet"
    trainable: Annotated[bool | Few, PRETRAINED] = False
    size: Annotated[Side | tuple[Side, Side] | None, PIXELS] = None
    resize: Annotated[Side | None, PIXELS] = None
    random_crop: Annotated[bool, PIXELS] = True
    crop_scale: Annotated[tuple[Unit, Unit], PIXELS] = (0.08, 1.0)
    flip: Annotated[bool, PIXELS] = True
    stages: Annotated[Few, PRETRAINED] = 1
    pooling: Annotated[Pooling, POOLED] = "mean"
    queries: Annotated[Few, POOLED, UsedIf("image.pooling", "attention", "attention_max")] = 4
    units: Annotated[WidthOrNone, UsedIf(("image.encoder", "model.head"), "cnn", True, False)] = 1024
    channels: Annotated[list[Width], UsedIf("image.encoder", "cnn")] = field(default_factory=lambda: [16, 32, 64, 96])
    eval_views: Annotated[Literal["centre", "centre_flip"], PIXELS] = "centre"


@dataclass(frozen=True)
class TextSettings:
    """The text tower's tokenizer and encoder.

    Args:
        encoder: gru | transformer | hub:<preset name or folder> with its own tokenizer.
        trainable: hub only: as for images; gru and transformer always train.
        min_count: gru, transformer only: words that occur less often in the captions of the train split are unknown.
        max_tokens: longer captions are truncated to this number of tokens.
        buckets: captions of a batch are padded to the first of these lengths that holds the longest.
        embedding_dim: gru only: width of the word embedding.
        units: gru, transformer only: width of the state.
        bidirectional: gru only: run in both directions and average the two last states.
        packed: gru only: compute real tokens only, the fastest way on a CPU; false takes Keras' own GRU (cuDNN on a
            GPU, XLA), whose weights and results are the same. auto: true on a CPU, false on a GPU and with
            train.jit_compile true.
        stages: hub only: number of layers whose states, concatenated, give the feature: the last layer, the word
            embeddings, and others spaced evenly between them; 1 takes the last alone.
        pooling: hub only: how the states at the tokens become one feature: mean, mean and maximum concatenated
            (mean_max), averages with learned weights (attention), or these and the maximum (attention_max).
        queries: attention, attention_max only: number of averages, concatenated.
        layers: transformer only: number of layers.
        heads: transformer only: number of attention heads.
        dropout: gru, transformer only: dropout on the word embeddings and inside the transformer.
    """

    encoder: EncoderName = "gru"
    trainable: Annotated[bool | Few, HUB] = False
    min_count: Annotated[Count, WORDS] = 4
    max_tokens: Annotated[int, Range(3, 2**16)] = 64
    buckets: list[Length] = field(default_factory=lambda: [8, 12, 16, 20, 24, 32, 48, 64])
    embedding_dim: Annotated[Width, GRU] = 300
    units: Annotated[Width, WORDS] = 1024
    bidirectional: Annotated[bool, GRU] = False
    packed: Annotated[Kept[bool | Literal["auto"]], GRU] = "auto"
    stages: Annotated[Few, HUB] = 1
    pooling: Annotated[Pooling, HUB] = "mean"
    queries: Annotated[Few, HUB, UsedIf("text.pooling", "attention", "attention_max")] = 4
    layers: Annotated[Few, TRANSFORMER] = 4
    heads: Annotated[Few, TRANSFORMER] = 8
    dropout: Annotated[Share, WORDS] = 0.0


@dataclass(frozen=True)
class ModelSettings:
    """The shared space.

    Args:
        dim: dimensions of the embedding; with model.head none those of the encoders' features.
        head: the method's projection head (Dense without bias, ReLU, Dense) on both towers (true), a single Dense
            (false), or none: the encoders' features themselves, such as those that CLIP compares.
        head_units: model.head only: width of the head's hidden layer.
        dropout: model.head true, false only: dropout before the head.
        precision: numeric precision of the towers; norms and losses are always float32. With mixed_float16 a step whose
            gradients are not finite is skipped, and schedules count the applied steps only.
        hubness_correction: the best model's vectors get four further coordinates, by which items that are near to
            everything come up less often; scores are then no cosines. It may be switched on for a finished run.
    """

    dim: Width = 1024
    head: bool | Literal["none"] = True
    head_units: Annotated[Width, UsedIf("model.head", True)] = 2048
    dropout: Annotated[Share, UsedIf("model.head", True, False)] = 0.0
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    hubness_correction: Free[bool] = False


@dataclass(frozen=True)
class LossSettings:
    """The objective.

    Args:
        name: objective.
        temperature: convse, convse++, simclr, sigmoid only: temperature that divides the similarities; where it is
            learned, its initial value. preset: that of the CLIP or SigLIP preset that both encoders are.
        learn_temperature: train the temperature (and sigmoid's bias) with the model; auto does so for sigmoid alone.
        temperature_limits: learned temperature only: its smallest and largest value.
        bias: sigmoid only: bias on the logits; where the temperature is learned, its initial value. preset: that of the
            SigLIP preset that both encoders are.
        margin: convse++, triplet_sum, triplet_max only: margin of the hinge.
        mask_same_image: other captions of an anchor's own image are not its negatives.
        multiple_positives: convse only: other captions of an anchor's image in the batch are positives too.
        hardest: convse++ only: number of hardest negatives of each anchor whose mean counts; null takes all.
        hardness_epochs: convse++ only: begin with the mean over all negatives and reach that over the hardest in this
            number of epochs, fractions allowed.
        nested_dims: numbers of first dimensions, in rising order, on which the objective is trained too: an index may
            then keep these alone (embed --storage int8:256) at a small loss of recall.
    """

    name: LossName = "convse"
    temperature: Annotated[
        Above0 | Literal["preset"],
        UsedIf("loss.name", *(name for name, loss in LOSSES.items() if loss.temperature != "none")),
    ] = 0.1
    learn_temperature: bool | Literal["auto"] = "auto"
    temperature_limits: Annotated[tuple[Above0, Above0], LEARNED] = (0.01, 1.0)
    bias: Annotated[float | Literal["preset"], Range(-LARGEST), _losses_with("bias")] = -10.0
    margin: Annotated[From0, UsedIf("loss.name", "convse++", "triplet_sum", "triplet_max")] = 0.2
    mask_same_image: bool = True
    multiple_positives: Annotated[bool, _losses_with("multiple_positives")] = False
    hardest: Annotated[Count | None, _losses_with("hardest")] = 1
    hardness_epochs: Annotated[float, Range(0, 10**6), _losses_with("hardness_epochs")] = 0.0
    nested_dims: list[Width] = field(default_factory=list)

    @property
    def learned(self) -> bool:
        """Whether the temperature is a weight of the model."""
        if self.learn_temperature == "auto":
            return LOSSES[self.name].temperature == "learned"
        return self.learn_temperature


@dataclass(frozen=True)
class TrainSettings:
    """The optimisation and the run folder.

    Args:
        run_dir: run folder (default: runs/<source>-<loss>-<seed>).
        sync_to: address of a folder in a bucket that checkpoints, logs and results are copied to; the same command on
            another machine continues from there.
        epochs: number of epochs; 0 measures and saves the model as it starts, such as a preset without training.
        batch_size: pairs in a global batch, all replicas together.
        micro_batch: number of pairs of the global batch that are encoded at a time, with the exact gradient of the full
            batch, to train on batches that do not fit into memory; 0 encodes the full batch at once.
        seed: seed of weights, order, augmentation and dropout.
        deterministic: same seed, same weights, at some cost in speed.
        init_from: a run folder whose best model's weights this run starts from; what does not fit starts fresh.
        resume: continue the run in run_dir (auto), refuse a folder that holds a run (never), or continue although
            settings differ (force).
        learning_rate: peak learning rate of Adam.
        weight_decay: decoupled weight decay (AdamW): before each step a kernel or embedding shrinks by this share of
            the learning rate; biases, norms and the temperature do not; 0 is Adam.
        schedule: constant, step (times decay_factor after each of decay_epochs) or cosine (to 0 at the end).
        warmup_epochs: linear warm-up, in epochs, fractions allowed.
        decay_epochs: step only: epochs after which the rate drops, in rising order.
        decay_factor: step only: factor of each drop.
        image_rate: factor on the image tower's learning rate.
        text_rate: factor on the text tower's learning rate.
        backbone_rate: trainable backbones only: factor on their learning rate, on top of their tower's.
        unfreeze_epoch: trainable backbones only: number of epochs before they are trained; until then they stay as they
            are, in inference mode, and only the heads learn.
        layer_decay: trainable backbones only: factor on the learning rate of each block for each block behind it, so
            that rates fall towards the input; the last block has the backbone's rate.
        clip_norm: gradients are clipped to this global norm; 0 switches it off.
        monitor: the metric of the validation split that makes a model the best one, and that patience waits for; a low
            median or mean rank is better than a high one.
        patience: stop after this number of epochs without a better validation metric (train.monitor); 0 never stops
            early. auto: 10, but 0 with a cosine schedule, whose last epochs are its best.
        collapse_steps: stop with an error when the loss has been that of a collapsed model for this number of steps; 0
            never does.
        eval_batch_size: number of images or captions encoded at a time when measuring.
        checkpoint_steps: steps between checkpoints, in addition to the one after each epoch; 0 writes none.
        checkpoint_minutes: minutes between checkpoints, in addition to those; 0 writes none.
        keep_checkpoints: number of most recent checkpoints that stay while training, in addition to the best weights; a
            finished run keeps the last one.
        jit_compile: compile the training step with XLA; auto does so on a GPU only, where it is known to help.
        log_steps: steps between two points of the training curves in TensorBoard.
        examples: number of validation images and captions in TensorBoard with their nearest neighbours; 0 for none.
        projector: number of validation images in TensorBoard's embedding projector, each with its first caption; 0
            leaves it out.
    """

    run_dir: Free[OutputPath | None] = None
    sync_to: Free[BucketAddress | None] = None
    epochs: Free[EpochsOrNone] = 7
    batch_size: Annotated[int, Range(2)] = 128
    micro_batch: CountOrNone = 0
    seed: Seed = 0
    deterministic: bool = False
    init_from: RemotePath | None = None
    resume: Free[Literal["auto", "never", "force"]] = "auto"
    learning_rate: Rate[Above0] = 1e-3
    weight_decay: From0 = 0.0
    schedule: Rate[Literal["constant", "step", "cosine"]] = "step"
    warmup_epochs: Rate[Annotated[float, Range(0, 10**6)]] = 0.5
    decay_epochs: Annotated[Rate[list[Epochs]], STEP] = field(default_factory=lambda: [5])
    decay_factor: Annotated[Rate[Annotated[float, Range(0, 1, above=True)]], STEP] = 0.1
    image_rate: From0 = 1.0
    text_rate: From0 = 1.0
    backbone_rate: Annotated[From0, BACKBONES] = 1.0
    unfreeze_epoch: Annotated[Annotated[int, Range(0, 10**6)], BACKBONES] = 0
    layer_decay: Annotated[Annotated[float, Range(0, 1, above=True)], BACKBONES] = 1.0
    clip_norm: From0 = 2.0
    monitor: Monitor = "rsum"
    patience: Kept[Free[CountOrNone | Literal["auto"]]] = "auto"
    collapse_steps: Free[CountOrNone] = 500
    eval_batch_size: Count = 128
    checkpoint_steps: Free[CountOrNone] = 0
    checkpoint_minutes: Free[From0] = 10.0
    keep_checkpoints: Free[Count] = 2
    jit_compile: bool | Literal["auto"] = "auto"
    log_steps: Free[Count] = 10
    examples: Free[CountOrNone] = 4
    projector: Free[CountOrNone] = 500


@dataclass(frozen=True)
class DistributionSettings:
    """Where the training runs.

    Args:
        strategy: auto (mirrored over several GPUs or virtual CPUs, multi_worker where TF_CONFIG is set, else none) |
            mirrored | multi_worker | none.
        virtual_cpus: number of logical devices that the CPU is split into, one replica each; 0 does not split it.
    """

    strategy: Literal["auto", "mirrored", "multi_worker", "none"] = "auto"
    virtual_cpus: Annotated[int, Range(0, 1024)] = 0


@dataclass(frozen=True)
class Settings:
    """All settings of a run.

    Args:
        data: data
        image: image tower
        text: text tower
        model: shared space
        loss: objective
        train: optimisation and run folder
        distribution: devices
    """

    data: DataSettings = field(default_factory=DataSettings)
    image: ImageSettings = field(default_factory=ImageSettings)
    text: TextSettings = field(default_factory=TextSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    distribution: DistributionSettings = field(default_factory=DistributionSettings)


def to_dict(settings: Any) -> dict[str, Any]:
    """Plain dictionary of a settings dataclass, ready for YAML or JSON (tuples become lists)."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    return plain(dataclasses.asdict(settings))
