"""The run's settings: frozen dataclasses, one a concern. No TensorFlow is imported here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

Paths = list[str] | str | None
Verify = Literal["none", "headers", "decode"]
OnBad = Literal["fail", "skip"]


@dataclass(frozen=True)
class ShapesSettings:
    """The generated shapes set.

    Args:
        train_scenes: number of training scenes; each comes with its mirror (objects swapped), so this is even.
        gallery_scenes: number of scenes in each of the splits val, test and hard.
        size: width and height of a scene in pixels.
        captions: distinct captions a scene.
        cache: draw all scenes once and keep them in memory (true) or draw each when it is needed (false).
        seed: seed of scenes and captions.
    """

    train_scenes: int = 8000
    gallery_scenes: int = 500
    size: int = 48
    captions: int = 5
    cache: bool = True
    seed: int = 0


@dataclass(frozen=True)
class TableSettings:
    """A CSV or JSONL caption table.

    Args:
        image_column: column (key) with the image path, relative to `data.images`.
        caption_column: column (key) with the caption; in JSONL a list of captions is allowed too.
        split_column: column (key) with the split; where the file has none, images are split by `data.val_fraction`
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
    data_dir: str | None = None
    image_feature: str = "image"
    caption_feature: str = "captions/text"
    download: bool = True


@dataclass(frozen=True)
class DataSettings:
    """Where the images and captions come from and in what order they are seen.

    Args:
        source: kind of source.
        annotations: caption file(s): the karpathy JSON, the coco JSONs, the table, or the precomp folder.
        images: image folder(s); for coco one a caption file, or one for all.
        split_ids: coco only: `.npy` files of annotation ids a split, as in {train: [a.npy, b.npy], val: [c.npy]}.
        restval_as_train: karpathy only: use the split `restval` as train.
        val_fraction: share of images in val where the source names no splits.
        test_fraction: share of images in test where the source names no splits.
        split_seed: seed of that split.
        on_bad: what to do with a bad record or image: stop (fail) or leave it out and count it (skip).
        verify: how images are checked before training: not at all, by their headers, or by decoding each once.
        max_pixels: images whose header announces more pixels are bad; so are those that would cost too much to decode
            in other ways (see `vse_tf.data.image_limits`).
        cache_dir: folder for what is kept between runs (default: $VSE_TF_CACHE or ~/.cache/vse_tf).
        epoch_over: an epoch sees every caption once (captions) or every image once with one caption drawn (images).
        group_batches: keep records of one group (a shapes scene and its mirror) in one batch.
        features: run the frozen image backbone once an image and view and train on the kept features.
        feature_crops: with features: seeded random crops kept of each training image, besides the centre view and
            (where image.flip) its mirror; each epoch draws one of an image's views.
        text_features: run the frozen hub text backbone once a caption and train on the kept features.
        workers: parallel decoding calls (default: number of CPU cores).
        shapes: settings of the source shapes.
        table: settings of the source table.
        tfds: settings of the source tfds.
    """

    source: Literal["shapes", "karpathy", "coco", "table", "precomp", "tfds"] = "shapes"
    annotations: Paths = None
    images: Paths = None
    split_ids: dict[str, list[str]] | None = None
    restval_as_train: bool = True
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    split_seed: int = 0
    on_bad: OnBad = "fail"
    verify: Verify = "headers"
    max_pixels: int = 100_000_000
    cache_dir: str | None = None
    epoch_over: Literal["captions", "images"] = "captions"
    group_batches: bool = True
    features: bool = False
    feature_crops: int = 0
    text_features: bool = False
    workers: int | None = None
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
        stages: pretrained convolutional backbones: maps of so many of the network's last stages give the feature, side
            by side; 1 takes the last map alone.
        pooling: of a map, of tokens or of regions the feature takes the mean, mean and maximum side by side
            (mean_max), or averages by learned weights (attention).
        queries: with attention: so many averages, side by side.
        units: width of the dense layer between backbone and head; 0 leaves it out.
        channels: cnn only: channels of its strided convolutions.
    """

    encoder: str = "applications:EfficientNetB0"
    weights: str = "imagenet"
    trainable: bool = False
    size: int | tuple[int, int] | None = None
    resize: int | None = None
    random_crop: bool = True
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    stages: int = 1
    pooling: Literal["mean", "mean_max", "attention"] = "mean"
    queries: int = 4
    units: int = 1024
    channels: list[int] = field(default_factory=lambda: [16, 32, 64, 96])


@dataclass(frozen=True)
class TextSettings:
    """The text tower's tokeniser and encoder.

    Args:
        encoder: gru | transformer | hub:<preset name or folder> with its own tokenizer.
        trainable: fine-tune a hub backbone (gru and transformer always train).
        min_count: words seen less often in the train split's captions are unknown.
        max_tokens: longer captions are cut here.
        buckets: captions of a batch are padded to the first of these lengths that holds the longest.
        embedding_dim: width of the word embedding.
        units: width of the GRU's state or of the transformer.
        bidirectional: gru only: run in both directions and average the two last states.
        packed: gru only: compute real tokens only, the fastest way on a CPU; false takes Keras' own GRU (cuDNN on a
            GPU, XLA), whose weights and results are the same.
        stages: hub only: states of so many of the network's layers give the feature, side by side: the last layer's,
            the word embeddings', and others evenly between; 1 takes the last alone.
        pooling: hub only: of the states at tokens the feature takes the mean, mean and maximum side by side (mean_max),
            or averages by learned weights (attention).
        queries: with attention: so many averages, side by side.
        layers: transformer only: number of layers.
        heads: transformer only: number of attention heads.
        dropout: dropout on the word embeddings and inside the transformer.
    """

    encoder: str = "gru"
    trainable: bool = False
    min_count: int = 4
    max_tokens: int = 64
    buckets: list[int] = field(default_factory=lambda: [8, 12, 16, 20, 24, 32, 48, 64])
    embedding_dim: int = 300
    units: int = 1024
    bidirectional: bool = False
    packed: bool = True
    stages: int = 1
    pooling: Literal["mean", "mean_max", "attention"] = "mean"
    queries: int = 4
    layers: int = 4
    heads: int = 8
    dropout: float = 0.0


@dataclass(frozen=True)
class ModelSettings:
    """The shared space.

    Args:
        dim: dimensions of the embedding.
        head: the method's projection head (Dense without bias, ReLU, Dense) on both towers, or a single Dense.
        head_units: width of the head's hidden layer.
        dropout: dropout before the head.
        precision: numeric precision of the towers; norms and losses are always float32.
    """

    dim: int = 1024
    head: bool = True
    head_units: int = 2048
    dropout: float = 0.0
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
        hardest: convse++ only: mean over so many hardest negatives of each anchor; null takes all.
        hardness: convse++ only: from 0, the mean over all negatives, to 1, that over the hardest.
        hardness_steps: convse++ only: the hardness rises to its value from 0 over so many steps.
        hardness_epochs: the same in epochs, fractions allowed; one of the two.
    """

    name: Literal["convse", "convse++", "triplet_sum", "triplet_max", "simclr", "npairs_angular", "sigmoid"] = "convse"
    temperature: float = 0.1
    learn_temperature: bool | Literal["auto"] = "auto"
    temperature_limits: tuple[float, float] = (0.01, 1.0)
    bias: float = -10.0
    margin: float = 0.2
    mask_same_image: bool = True
    multiple_positives: bool = False
    hardest: int | None = 1
    hardness: float = 1.0
    hardness_steps: int = 0
    hardness_epochs: float = 0.0

    @property
    def learned(self) -> bool:
        """Whether the temperature is a weight of the model."""
        return self.name == "sigmoid" if self.learn_temperature == "auto" else self.learn_temperature


@dataclass(frozen=True)
class TrainSettings:
    """The optimisation and the run folder.

    Args:
        run_dir: run folder (default: runs/<source>-<loss>-<seed>).
        epochs: number of epochs.
        batch_size: pairs in a global batch, all replicas together.
        micro_batch: encode so many pairs of the global batch at a time, with the exact gradient of the whole batch, to
            train on batches that do not fit into memory; 0 encodes the whole batch at once.
        seed: seed of weights, order, augmentation and dropout.
        deterministic: same seed, same weights, at some cost in speed.
        init_from: a run folder whose best model's weights this run starts from; what does not fit starts fresh.
        resume: continue the run in run_dir (auto), refuse a folder that holds a run (never), or continue although
            settings differ (force).
        optimizer_epsilon: epsilon of Adam.
        learning_rate: peak learning rate of Adam.
        schedule: constant, step (times decay_factor at each of decay_epochs) or cosine (to 0 at the end).
        warmup_epochs: linear warm-up, in epochs, fractions allowed.
        decay_epochs: step only: epochs after which the rate drops.
        decay_factor: step only: factor of each drop.
        image_rate: factor on the image tower's learning rate.
        text_rate: factor on the text tower's learning rate.
        backbone_rate: factor on a trainable pretrained backbone's learning rate, on top of its tower's.
        clip_norm: gradients are clipped to this global norm; 0 switches it off.
        patience: stop after so many epochs without a better validation rsum; 0 never stops early.
        collapse_steps: stop with an error when the loss has been that of a collapsed model for so many steps; 0 never
            does.
        eval_batch_size: images or captions encoded at a time when measuring.
        checkpoint_steps: a checkpoint every so many steps, besides the one at each epoch's end; 0 writes none.
        checkpoint_minutes: a checkpoint when so many minutes have passed since the last one; 0 writes none.
        keep_checkpoints: last checkpoints kept besides the best.
        jit_compile: compile the training step with XLA; auto does so on a GPU alone, where it is known to help.
        steps_per_execution: training steps in one call of the compiled function; an epoch is cut to a multiple of it.
        log_steps: TensorBoard gets the step's scalars every so many steps.
        examples: validation images and captions shown with their nearest neighbours in TensorBoard; 0 shows none.
        projector: number of validation images in TensorBoard's embedding projector, each with its first caption beside
            it; 0 leaves it out.
    """

    run_dir: str | None = None
    epochs: int = 30
    batch_size: int = 128
    micro_batch: int = 0
    seed: int = 0
    deterministic: bool = False
    init_from: str | None = None
    resume: Literal["auto", "never", "force"] = "auto"
    optimizer_epsilon: float = 1e-7
    learning_rate: float = 2e-4
    schedule: Literal["constant", "step", "cosine"] = "step"
    warmup_epochs: float = 0.0
    decay_epochs: list[int] = field(default_factory=lambda: [15])
    decay_factor: float = 0.1
    image_rate: float = 1.0
    text_rate: float = 1.0
    backbone_rate: float = 1.0
    clip_norm: float = 2.0
    patience: int = 0
    collapse_steps: int = 500
    eval_batch_size: int = 128
    checkpoint_steps: int = 0
    checkpoint_minutes: float = 10.0
    keep_checkpoints: int = 2
    jit_compile: bool | Literal["auto"] = "auto"
    steps_per_execution: int = 1
    log_steps: int = 10
    examples: int = 4
    projector: int = 500


@dataclass(frozen=True)
class DistributionSettings:
    """Where the training runs.

    Args:
        strategy: auto (mirrored over several GPUs or virtual CPUs, multi_worker where TF_CONFIG is set, else none) |
            mirrored | multi_worker | none.
        virtual_cpus: split the CPU into so many logical devices, a replica each; 0 leaves it whole.
    """

    strategy: Literal["auto", "mirrored", "multi_worker", "none"] = "auto"
    virtual_cpus: int = 0


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
