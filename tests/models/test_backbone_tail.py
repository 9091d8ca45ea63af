"""The last blocks of a backbone trained on cached states: the gradient of the uncut backbone, the rest unchanged."""

import shutil
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.image_towers import RNG, check_frozen, rebuilt, shaken, tiny_efficientnet
from tests.tiny import arguments
from tests.warm_python import warm_python
from vse_tf import train
from vse_tf.artifacts.checkpoints import named_variables
from vse_tf.config import ImageSettings, ModelSettings, TextSettings
from vse_tf.embedder import load
from vse_tf.errors import UserError
from vse_tf.models import backbone_tail, hub_backbones
from vse_tf.models.backbones import backbone_of, tail_of
from vse_tf.models.feature_cache import backbone_key
from vse_tf.models.hub_backbones import hub_image_backbone, hub_text_backbone
from vse_tf.models.image_tower import image_tower_from_settings
from vse_tf.models.text_tower import text_tower_from_settings

SIZE, WORDS = (32, 32), 3000
MODEL = ModelSettings(dim=6, head=False)
PIXELS = RNG.uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
# Ids above 2,048 are not exact in half precision; CLIP's end of text is the largest.
IDS = np.int32([[5, 9, 2600, 2999, -1, -1], [7, 2999, -1, -1, -1, -1], [1, 2, 3, 4, 6, 2999]])


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """Folders of tiny presets with random weights and several blocks."""
    import keras_hub  # noqa: PLC0415

    models, layers = keras_hub.models, keras_hub.layers
    folder = tmp_path_factory.mktemp("presets")
    vision = {"patch_size": 8, "hidden_dim": 16, "num_layers": 2, "num_heads": 2, "intermediate_dim": 32}
    words = {"vocabulary_size": WORDS, "embedding_dim": 16, "hidden_dim": 16, "num_layers": 2, "num_heads": 2}
    words |= {"intermediate_dim": 32, "max_sequence_length": 12}
    images = {
        "efficientnet": tiny_efficientnet([1, 2]),
        "resnet": models.ResNetBackbone([64], [3], [64, 8], [1, 2], [1, 2], "basic_block", image_shape=(None, None, 3)),
        "vit": models.ViTBackbone((32, 32, 3), 8, 3, 2, 16, 32),
        "clip": models.CLIPBackbone(
            models.CLIPVisionEncoder(**vision, image_shape=(32, 32, 3)), models.CLIPTextEncoder(**words), 8
        ),
    }
    converters = {"resnet": layers.ResNetImageConverter, "vit": layers.ViTImageConverter}
    converters |= {"clip": layers.CLIPImageConverter, "efficientnet": layers.EfficientNetImageConverter}
    for name, network in images.items():
        shaken(network).save_to_preset(str(folder / name))
        converters[name](image_size=SIZE, scale=1 / 255).save_to_preset(str(folder / name))
    texts = {
        "bert": models.BertBackbone(WORDS, 4, 2, 16, 32, dropout=0.0, max_sequence_length=12),
        "roberta": models.RobertaBackbone(WORDS, 2, 2, 16, 32, dropout=0.0, max_sequence_length=12),
        "siglip": models.SigLIPBackbone(
            models.SigLIPVisionEncoder(**vision, image_shape=(32, 32, 3)),
            models.SigLIPTextEncoder(**words, projection_dim=16),
        ),
        "albert": models.AlbertBackbone(WORDS, 4, 2, 16, 16, 32, dropout=0.0, max_sequence_length=12),
    }
    for name, network in texts.items():
        shaken(network).save_to_preset(str(folder / name))
    return {name: str(folder / name) for name in images | texts}


@pytest.fixture(autouse=True)
def padding_token(monkeypatch):
    """The tiny presets hold no tokenizer."""
    monkeypatch.setattr(hub_backbones, "_padding_id", lambda preset: 1)


CASES = {
    "efficientnet": ("image", 2, {"stages": 2, "pooling": "mean_max"}),
    "efficientnet, regions": ("image", 1, {"stages": 2, "pooling": "attention"}),
    "resnet": ("image", 2, {}),
    "clip": ("image", 2, {}),
    "clip, captions": ("text", 2, {}),
    "bert": ("text", 2, {}),
    "bert, states": ("text", 2, {"stages": 3, "pooling": "attention"}),
    "bert, means": ("text", 1, {"stages": 3, "pooling": "mean_max"}),
    "roberta": ("text", 1, {}),
    "siglip": ("text", 1, {}),
}


def built(presets, case, trainable):
    kind, _, options = CASES[case]
    preset = presets[case.split(",")[0]]
    if kind == "image":
        return hub_image_backbone(preset, SIZE, trainable, "float32", **options), PIXELS
    return hub_text_backbone(preset, 12, trainable, "float32", **options), IDS


def gradients(function, inputs, variables):
    with tf.GradientTape() as tape:
        feature = function(inputs)
        weights = np.random.default_rng(0).normal(size=feature.shape).astype(np.float32)
        loss = tf.reduce_sum(feature * weights)
    found = tape.gradient(loss, variables)
    return feature, [
        tf.zeros(v.shape) if g is None else tf.convert_to_tensor(g) for g, v in zip(found, variables, strict=True)
    ]


def matching(variable, variables):
    """The same weight of the uncut backbone, whose name may begin with that of a layer around it."""
    (found,) = [each for each in variables if f"/{each.path}".endswith(f"/{variable.path}")]
    return found


@pytest.mark.parametrize("rounding", ["float32", "float16"])
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_the_same_blocks_unfrozen(presets, monkeypatch, case, rounding):
    monkeypatch.setattr(backbone_tail, "ROUNDING", rounding)
    whole, inputs = built(presets, case, True)
    cut, _ = built(presets, case, CASES[case][1])
    mine = cut.tail.trainable_variables
    theirs = [matching(variable, whole.trainable_variables) for variable in mine]
    assert mine and len(mine) < len(whole.trainable_variables)
    expected, wanted = gradients(lambda x: whole(x, training=False), inputs, theirs)
    # In training mode: batch statistics do not follow the batch.
    feature, found = gradients(lambda x: cut.tail(cut.frozen(x, training=True), training=True), inputs, mine)
    limit = 2e-5 if rounding == "float32" else 2**-6
    assert np.linalg.norm(feature - expected) <= limit * np.linalg.norm(expected)
    whole_norm = np.sqrt(sum(np.sum(np.square(one)) for one in wanted))
    assert whole_norm > 0
    for one, other, variable in zip(found, wanted, mine, strict=True):
        assert np.linalg.norm(one - other) <= limit * (np.linalg.norm(other) + 0.05 * whole_norm), variable.path


@pytest.mark.parametrize("case", ["efficientnet", "clip", "bert, states"])
def test_only_the_tail_and_the_head_learn(presets, case):
    kind, blocks, options = CASES[case]
    preset = f"hub:{presets[case.split(',')[0]]}"
    if kind == "image":
        settings = ImageSettings(encoder=preset, trainable=blocks, units=0, **options)
        make, inputs = lambda: image_tower_from_settings(settings, MODEL), PIXELS
    else:
        settings = TextSettings(encoder=preset, trainable=blocks, max_tokens=12, **options)
        make, inputs = lambda: text_tower_from_settings(settings, MODEL, WORDS), IDS
    tower = make()
    backbone, tail = backbone_of(tower), tail_of(tower)
    before = [weight.numpy() for weight in backbone.weights]
    values = {weight.path: weight.numpy() for weight in tail.weights}
    if kind == "image":
        check_frozen(tower, before)
    else:
        tower.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
        tower.fit(inputs, np.ones((3, 6)), verbose=0)
        for weight, value in zip(backbone.weights, before, strict=True):
            np.testing.assert_array_equal(weight, value)
    changed = {weight.name for weight in tail.weights if not np.array_equal(weight, values[weight.path])}
    assert "kernel" in changed and not changed & {"moving_mean", "moving_variance"}
    again = rebuilt(tower)
    assert list(named_variables({"t": again}, False)) == list(named_variables({"t": tower}, False))
    for name, variable in named_variables({"t": tower}, False).items():
        named_variables({"t": again}, False)[name].assign(variable)
    np.testing.assert_allclose(again(inputs), tower(inputs), rtol=1e-5, atol=1e-6)
    assert tail_of(again).trainable_variables
    assert backbone_key(backbone) == backbone_key(backbone_of(again)) == backbone_key(backbone_of(again))
    keys = {backbone_key(backbone_of(make())) for _ in range(2)}
    assert len(keys) == 1


def test_kerashubs_vit_cannot_be_cut(presets):
    """Its embedding is a layer that cannot be rebuilt from its own config."""
    with pytest.raises(UserError, match=r"image\.trainable: 1, but preset .*vit' has no place where it can be cut"):
        hub_image_backbone(presets["vit"], SIZE, 1, "float32")


@pytest.mark.parametrize(
    ("name", "blocks", "wanted"),
    [
        ("bert", 9, r"text\.trainable: 9, but preset .*bert' has 5 blocks; give fewer, or true"),
        ("albert", 1, r"text\.trainable: 1, but preset .*albert' has no place where it can be cut; give true or false"),
    ],
)
def test_a_backbone_that_cannot_be_cut_is_one_line(presets, name, blocks, wanted):
    with pytest.raises(UserError, match=wanted):
        hub_text_backbone(presets[name], 12, blocks, "float32")


def run_of(folder, name, **changed):
    values = {
        "text__encoder": f"hub:{folder / 'bert'}",
        "text__max_tokens": 32,
        "text__trainable": 1,
        "train__backbone_rate": 0.5,
        "train__schedule": "constant",
        "data__cache_dir": folder / "cache",
        "data__text_features": "true",
        **changed,
    }
    train.main(arguments(folder / name, **values))
    return load(folder / name, "last")


def test_a_run_on_cached_states_is_the_run_without(bert_preset, tmp_path):
    """Two epochs at once, with a stop between them, without a cache, and on two replicas."""
    # Dropout draws masks of the padded length, which is that of a bucket without a cache.
    shutil.copytree(bert_preset, tmp_path / "bert")
    config = tmp_path / "bert" / "config.json"
    config.write_text(config.read_text().replace('"dropout": 0.1', '"dropout": 0.0'))
    cached = run_of(tmp_path, "cached")
    run_of(tmp_path, "stopped", train__epochs=1)
    stopped = run_of(tmp_path, "stopped")
    live = run_of(tmp_path, "live", data__text_features="false")
    assert list((tmp_path / "cache").rglob("*.npy"))
    command = [*warm_python(), "-m", "vse_tf.train", "--config", str(tmp_path / "cached" / "config.yaml")]
    command += ["--train.run_dir", str(tmp_path / "two"), "--distribution.virtual_cpus", "2"]
    subprocess.run(command, check=True, capture_output=True)
    for other, limit in ((stopped, 0.0), (live, 1e-4), (load(tmp_path / "two", "last"), 1e-3)):
        for mine, there in zip(cached.model.trainable_variables, other.model.trainable_variables, strict=True):
            np.testing.assert_allclose(mine, there, atol=limit, rtol=0, err_msg=f"{other} {mine.path}")
    captions = ["a red circle", "the blue square left", "dogs"]
    np.testing.assert_allclose(cached.encode_texts(captions), live.encode_texts(captions), atol=1e-3)
