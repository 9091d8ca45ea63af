"""The run's settings: a frozen dataclass per section. No TensorFlow is imported here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from vse_tf.losses.registry import LOSSES
from vse_tf.setting_types import (
    LARGEST,
    Above0,
    Count,
    CountOrNone,
    EncoderName,
    Epochs,
    Few,
    Free,
    From0,
    Length,
    LocalPath,
    OutputPath,
    Paths,
    Range,
    Rate,
    Seed,
    Share,
    Side,
    Unit,
    Weights,
    Width,
    WidthOrNone,
)

LossName: TypeAlias = str
if not TYPE_CHECKING:
    # One of the registry's names: a type that mypy cannot express.
    LossName = Literal[tuple(LOSSES)]
Verify = Literal["none", "headers", "decode"]
OnBad = Literal["fail", "skip"]


@dataclass(frozen=True)
class ShapesSettings:
    """The generated shapes set.

    Args:
        train_scenes: number of training scenes; each comes with its mirror (objects swapped), so this is even.
        gallery_scenes: number of scenes in each of the splits val, test and hard.
        size: width and height of a scene in pixels.
        captions: number of distinct captions per scene.
        cache: draw all scenes once and cache them in memory (true) or draw each when it is needed (false).
        seed: seed of scenes and captions.
    """

    train_scenes: Count = 8000
    gallery_scenes: Count = 500
    size: Annotated[int, Range(16, 2**14)] = 48
    captions: Count = 5
    cache: bool = True
    seed: Seed = 0


@dataclass(frozen=True)
class TableSettings:
    """A caption table: text or JSON.

    Args:
        image_column: column (key) with the image path, relative to `data.images`.
        caption_column: column (key) with the caption; in JSON a list of captions is allowed too.
        split_column: column (key) with the split; if the file has none, images are split by `data.val_fraction`
            and `data.test_fraction`.
    """

    image_column: str = "image"
    caption_column: str = "caption"
    split_column: str = "split"


@dataclass(frozen=True)
class TfdsSettings:
    """A TensorFlow Datasets set.

    Args:
        name: registered name, for example `coco_captions` (a config and version may follow as in `name/config:1.0.0`).
        data_dir: folder of prepared data sets (default: TensorFlow Datasets' own).
        image_feature: path of the image feature, parts joined by `/`.
        caption_feature: path of the caption feature, parts joined by `/`.
        download: download and prepare the set if it is not there.
    """

    name: str | None = None
    data_dir: LocalPath | None = None
    image_feature: str = "image"
    caption_feature: str = "captions/text"
    download: bool = True


@dataclass(frozen=True)
class DataSettings:
    """The source of images and captions, and the order of training.

    Args:
        source: kind of source.
        annotations: caption file(s): the karpathy JSON, the coco JSONs, the table, or the precomp folder.
        images: image folder(s); for coco one per caption file, or one for all; for karpathy one or several.
        split_ids: coco only: `.npy` files of annotation ids per split, as in {train: [a.npy, b.npy], val: [c.npy]}.
        restval_as_train: karpathy only: use the split `restval` as train.
        val_fraction: share of images in val if the source has no splits, or no val.
        test_fraction: share of images in test if the source has no splits.
        split_seed: seed of that split.
        on_bad: what to do with a bad record or image: stop (fail) or skip and count it (skip).
        verify: how images are checked before training: not at all (none), by headers or by decoding each once (decode).
        max_pixels: images with more pixels, according to their header, are bad; so are images that cost too much to
            decode in other ways (see `vse_tf.preprocessing.image_limits`).
        cache_dir: folder of cached results and features (default: $VSE_TF_CACHE or ~/.cache/vse_tf).
        epoch_over: an epoch has every caption once (captions) or every image once with one of its captions (images).
        features: run the frozen image backbone once per image and view and train on the cached features.
        feature_crops: with features: number of random crops cached per training image, in addition to the centre view
            and (with image.flip) its mirror image; each epoch draws one of an image's views.
        text_features: run the frozen hub text backbone once per caption and train on the cached features.
        workers: number of parallel decoding calls (default: number of CPU cores).
        shapes: settings of the source shapes.
        table: settings of the source table.
        tfds: settings of the source tfds.
    """

    source: Literal["shapes", "karpathy", "coco", "table", "precomp", "tfds"] = "shapes"
    annotations: Paths = None
    images: Paths = None
    split_ids: dict[str, list[LocalPath]] | None = None
    restval_as_train: bool = True
    val_fraction: Share = 0.1
    test_fraction: Share = 0.1
    split_seed: Annotated[int, Range(-(2**63), 2**63)] = 0
    on_bad: OnBad = "fail"
    verify: Free[Verify] = "headers"
    max_pixels: Count = 100_000_000
    cache_dir: Free[LocalPath | None] = None
    epoch_over: Literal["captions", "images"] = "captions"
    features: bool = False
    feature_crops: Annotated[int, Range(0, 1024)] = 0
    text_features: bool = False
    workers: Free[Few | None] = None
    shapes: ShapesSettings = field(default_factory=ShapesSettings)
    table: TableSettings = field(default_factory=TableSettings)
    tfds: TfdsSettings = field(default_factory=TfdsSettings)


@dataclass(frozen=True)
class ImageSettings:
    """The image tower's input and encoder.

    Args:
        encoder: cnn (small, from scratch) | features (precomputed) | applications:<Name> | hub:<preset name or folder>.
        weights: applications only: imagenet, none, or a weights file.
        trainable: fine-tune the pretrained backbone (cnn always trains).
        size: height and width in pixels that the encoder sees, one number or two (default: the encoder's own size).
        resize: evaluation resizes the shorter side to this before the centre crop (default: size * 256 / 224).
        random_crop: train on random crops (RandomResizedCrop) instead of centre crops.
        crop_scale: smallest and largest share of the image's area in a random crop.
        flip: mirror training images at random.
        stages: pretrained convolutional backbones only: number of last stages whose maps, concatenated, give the
            feature; 1 takes the last map alone.
        pooling: how a map, tokens or regions become one feature: mean, mean and maximum concatenated (mean_max), or
            averages with learned weights (attention).
        queries: attention only: number of averages, concatenated.
        units: width of the dense layer between backbone and head; 0 leaves it out.
        channels: cnn only: channels of its strided convolutions.
    """

    encoder: EncoderName = "applications:EfficientNetB0"
    weights: Weights = "imagenet"
    trainable: bool = False
    size: Side | tuple[Side, Side] | None = None
    resize: Side | None = None
    random_crop: bool = True
    crop_scale: tuple[Unit, Unit] = (0.08, 1.0)
    flip: bool = True
    stages: Few = 1
    pooling: Literal["mean", "mean_max", "attention"] = "mean"
    queries: Few = 4
    units: WidthOrNone = 1024
    channels: list[Width] = field(default_factory=lambda: [16, 32, 64, 96])


@dataclass(frozen=True)
class TextSettings:
    """The text tower's tokenizer and encoder.

    Args:
        encoder: gru | transformer | hub:<preset name or folder> with its own tokenizer.
        trainable: fine-tune a hub backbone (gru and transformer always train).
        min_count: words that occur less often in the captions of the train split are unknown.
        max_tokens: longer captions are truncated to this number of tokens.
        buckets: captions of a batch are padded to the first of these lengths that holds the longest.
        embedding_dim: width of the word embedding.
        units: width of the GRU's state or of the transformer.
        bidirectional: gru only: run in both directions and average the two last states.
        packed: gru only: compute real tokens only, the fastest way on a CPU; false takes Keras' own GRU (cuDNN on a
            GPU, XLA), whose weights and results are the same.
        stages: hub only: number of layers whose states, concatenated, give the feature: the last layer, the word
            embeddings, and others spaced evenly between them; 1 takes the last alone.
        pooling: hub only: how the states at the tokens become one feature: mean, mean and maximum concatenated
            (mean_max), or averages with learned weights (attention).
        queries: attention only: number of averages, concatenated.
        layers: transformer only: number of layers.
        heads: transformer only: number of attention heads.
        dropout: dropout on the word embeddings and inside the transformer.
    """

    encoder: EncoderName = "gru"
    trainable: bool = False
    min_count: Count = 4
    max_tokens: Annotated[int, Range(3, 2**16)] = 64
    buckets: list[Length] = field(default_factory=lambda: [8, 12, 16, 20, 24, 32, 48, 64])
    embedding_dim: Width = 300
    units: Width = 1024
    bidirectional: bool = False
    packed: bool = True
    stages: Few = 1
    pooling: Literal["mean", "mean_max", "attention"] = "mean"
    queries: Few = 4
    layers: Few = 4
    heads: Few = 8
    dropout: Share = 0.0


@dataclass(frozen=True)
class ModelSettings:
    """The shared space.

    Args:
        dim: dimensions of the embedding.
        head: the method's projection head (Dense without bias, ReLU, Dense) on both towers, or a single Dense.
        head_units: width of the head's hidden layer.
        dropout: dropout before the head.
        precision: numeric precision of the towers; norms and losses are always float32. With mixed_float16 a step whose
            gradients are not finite is skipped, and schedules count the applied steps only.
    """

    dim: Width = 1024
    head: bool = True
    head_units: Width = 2048
    dropout: Share = 0.0
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"


@dataclass(frozen=True)
class LossSettings:
    """The objective.

    Args:
        name: objective.
        temperature: temperature that divides the similarities; where it is learned, its initial value.
        learn_temperature: train the temperature (and sigmoid's bias) with the model; auto does so for sigmoid alone.
        temperature_limits: smallest and largest learned temperature.
        bias: sigmoid only: bias on the logits; where the temperature is learned, its initial value.
        margin: margin of the hinge objectives.
        mask_same_image: other captions of an anchor's own image are not its negatives.
        multiple_positives: convse only: other captions of an anchor's image in the batch are positives too.
        hardest: convse++ only: number of hardest negatives of each anchor whose mean counts; null takes all.
        hardness_epochs: convse++ only: begin with the mean over all negatives and reach that over the hardest in this
            number of epochs, fractions allowed.
    """

    name: LossName = "convse"
    temperature: Above0 = 0.1
    learn_temperature: bool | Literal["auto"] = "auto"
    temperature_limits: tuple[Above0, Above0] = (0.01, 1.0)
    bias: Annotated[float, Range(-LARGEST)] = -10.0
    margin: From0 = 0.2
    mask_same_image: bool = True
    multiple_positives: bool = False
    hardest: Count | None = 1
    hardness_epochs: Annotated[float, Range(0, 10**6)] = 0.0

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
        epochs: number of epochs.
        batch_size: pairs in a global batch, all replicas together.
        micro_batch: number of pairs of the global batch that are encoded at a time, with the exact gradient of the full
            batch, to train on batches that do not fit into memory; 0 encodes the full batch at once.
        seed: seed of weights, order, augmentation and dropout.
        deterministic: same seed, same weights, at some cost in speed.
        init_from: a run folder whose best model's weights this run starts from; what does not fit starts fresh.
        resume: continue the run in run_dir (auto), refuse a folder that holds a run (never), or continue although
            settings differ (force).
        learning_rate: peak learning rate of Adam.
        schedule: constant, step (times decay_factor after each of decay_epochs) or cosine (to 0 at the end).
        warmup_epochs: linear warm-up, in epochs, fractions allowed.
        decay_epochs: step only: epochs after which the rate drops, in rising order.
        decay_factor: step only: factor of each drop.
        image_rate: factor on the image tower's learning rate.
        text_rate: factor on the text tower's learning rate.
        backbone_rate: factor on a trainable pretrained backbone's learning rate, on top of its tower's.
        clip_norm: gradients are clipped to this global norm; 0 switches it off.
        patience: stop after this number of epochs without a better validation rsum; 0 never stops early.
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
    epochs: Free[Epochs] = 30
    batch_size: Annotated[int, Range(2)] = 128
    micro_batch: CountOrNone = 0
    seed: Seed = 0
    deterministic: bool = False
    init_from: LocalPath | None = None
    resume: Free[Literal["auto", "never", "force"]] = "auto"
    learning_rate: Rate[Above0] = 2e-4
    schedule: Rate[Literal["constant", "step", "cosine"]] = "step"
    warmup_epochs: Rate[Annotated[float, Range(0, 10**6)]] = 0.0
    decay_epochs: Rate[list[Epochs]] = field(default_factory=lambda: [15])
    decay_factor: Rate[Annotated[float, Range(0, 1, above=True)]] = 0.1
    image_rate: From0 = 1.0
    text_rate: From0 = 1.0
    backbone_rate: From0 = 1.0
    clip_norm: From0 = 2.0
    patience: Free[CountOrNone] = 0
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
