"""Text towers: the recurrence against NumPy, padding, pretrained encoders, and a user's mistakes."""

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from vse_tf.artifacts.keras_configs import check_keras_config
from vse_tf.config import ModelSettings, TextSettings
from vse_tf.errors import UserError
from vse_tf.models import hub_backbones
from vse_tf.models.backbones import backbone_of
from vse_tf.models.masking import FillPadding, MaskedMean, SplitPadding
from vse_tf.models.projection import head_of
from vse_tf.models.text_tower import text_tower_from_settings

VOCABULARY, END = 50, 49
MODEL = ModelSettings(dim=6, head_units=10)
RNG = np.random.default_rng(0)
# Rows of 5, 2, 1 and 0 tokens; an end token as CLIP needs it.
IDS = np.array(
    [[7, 3, 9, 4, END, -1], [5, END, -1, -1, -1, -1], [END, -1, -1, -1, -1, -1], [-1] * 6],
    np.int32,
)
LENGTHS = (IDS >= 0).sum(1)


def text(encoder: str, **kwargs: Any) -> TextSettings:
    return TextSettings(
        **{"encoder": encoder, "embedding_dim": 4, "units": 8, "heads": 2, "layers": 2, "max_tokens": 12, **kwargs}
    )


def shaken(network: keras.Model) -> keras.Model:
    for weight in network.weights:
        weight.assign_add(RNG.normal(0, 0.3, weight.shape))
    return network


def rebuilt(tower: keras.Model) -> keras.Model:
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(tower)))
    check_keras_config({**config, "compile_config": None})
    return keras.saving.deserialize_keras_object(config)


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny presets with random weights."""
    import keras_hub  # noqa: PLC0415

    models = keras_hub.models
    folder = tmp_path_factory.mktemp("presets")
    vision = {"patch_size": 8, "hidden_dim": 16, "num_layers": 1, "num_heads": 2, "intermediate_dim": 32}
    words = {"vocabulary_size": VOCABULARY, "embedding_dim": 16, "hidden_dim": 16, "num_layers": 2, "num_heads": 2}
    words |= {"intermediate_dim": 32, "max_sequence_length": 12}
    networks = {
        "bert": models.BertBackbone(VOCABULARY, 2, 2, 16, 32, dropout=0.3, max_sequence_length=12),
        "roberta": models.RobertaBackbone(VOCABULARY, 2, 2, 16, 32, dropout=0.3, max_sequence_length=12),
        "clip": models.CLIPBackbone(
            models.CLIPVisionEncoder(**vision, image_shape=(32, 32, 3)), models.CLIPTextEncoder(**words), 8
        ),
        "siglip": models.SigLIPBackbone(
            models.SigLIPVisionEncoder(**vision, image_shape=(32, 32, 3)),
            models.SigLIPTextEncoder(**words, projection_dim=16),
        ),
        "fnet": models.FNetBackbone(VOCABULARY, 1, 16, 32, max_sequence_length=12),
    }
    for name, network in networks.items():
        shaken(network).save_to_preset(str(folder / name))
    return {name: str(folder / name) for name in networks}


@pytest.fixture(autouse=True)
def padding_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny presets hold no tokenizer; SigLIP's padding token is 1."""
    monkeypatch.setattr(hub_backbones, "_padding_id", lambda preset: 1)


def loaded(preset: str) -> Any:
    import keras_hub  # noqa: PLC0415

    return keras_hub.models.Backbone.from_preset(preset)


def encoder_of(tower: keras.Model) -> keras.Model:
    """What the head is fed with."""
    return keras.Model(tower.input, tower.layers[-2].output)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gru(x: np.ndarray, kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Last state over the steps of `x` `(length, d)`: gates in the order update, reset, new (arXiv 1406.1078)."""
    state = np.zeros(recurrent.shape[0])
    for step in x:
        ours = np.split(step @ kernel + bias[0], 3)
        theirs = np.split(state @ recurrent + bias[1], 3)
        update, reset = sigmoid(ours[0] + theirs[0]), sigmoid(ours[1] + theirs[1])
        state = update * state + (1 - update) * np.tanh(ours[2] + reset * theirs[2])
    return state


def test_gru_ends_at_the_last_token() -> None:
    tower = shaken(text_tower_from_settings(text("gru"), MODEL, VOCABULARY))
    embedding, *weights = (np.float64(weight) for weight in tower.get_weights()[:4])
    expected = [gru(embedding[row[:length]], *weights) for row, length in zip(IDS, LENGTHS, strict=True)]
    np.testing.assert_allclose(encoder_of(tower)(IDS), expected, atol=1e-5)
    np.testing.assert_allclose(tower(IDS), head_of(tower)(np.array(expected)), atol=1e-5)
    assert backbone_of(tower) is None


def test_bidirectional_gru_averages_both_last_states() -> None:
    tower = shaken(text_tower_from_settings(text("gru", bidirectional=True), MODEL, VOCABULARY))
    embedding, *weights = (np.float64(weight) for weight in tower.get_weights()[:7])
    rows = [embedding[row[:length]] for row, length in zip(IDS, LENGTHS, strict=True)]
    expected = [(gru(row, *weights[:3]) + gru(row[::-1], *weights[3:])) / 2 for row in rows]
    np.testing.assert_allclose(encoder_of(tower)(IDS), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")  # over the one token of a row
@pytest.mark.parametrize("encoder", ["gru", "bidirectional", "transformer", "bert", "roberta", "clip", "siglip"])
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_padding_changes_nothing(presets: dict[str, str], encoder: str, precision: str) -> None:
    settings = {"bidirectional": text("gru", bidirectional=True)}.get(encoder)
    settings = settings or text(f"hub:{presets[encoder]}" if encoder in presets else encoder)
    model = ModelSettings(dim=6, head_units=10, precision=precision)
    tower = text_tower_from_settings(settings, model, VOCABULARY)
    head_of(tower).get_layer("head_output").bias.assign(RNG.normal(size=6))
    y = tower(IDS)
    assert y.dtype == tf.float32
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), 1, atol=1e-6)  # the row of padding too
    atol = 1e-5 if precision == "float32" else 0.02
    in_graph = tf.function(tower, input_signature=[tf.TensorSpec([None, None], tf.int32)])
    for columns in (1, 4):
        longer = np.pad(IDS, [(0, 0), (0, columns)], constant_values=-1)
        np.testing.assert_allclose(tower(longer), y, atol=atol)
        np.testing.assert_allclose(in_graph(longer), y, atol=atol)
    for i, length in enumerate(LENGTHS[:3]):
        np.testing.assert_allclose(tower(IDS[i : i + 1, :length])[0], y[i], atol=atol)
    if precision == "float32":
        assert np.abs(np.diff(y, axis=0)).max() > 1e-3  # the tokens do count


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_rows_of_padding_alone_have_finite_gradients(encoder: str) -> None:
    tower = text_tower_from_settings(text(encoder), MODEL, VOCABULARY)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tower(IDS) ** 3)
    for gradient in tape.gradient(loss, tower.trainable_variables):
        assert np.isfinite(tf.convert_to_tensor(gradient)).all()


def test_initial_values() -> None:
    for encoder in ("gru", "transformer"):
        tower = text_tower_from_settings(text(encoder, embedding_dim=100, units=16), MODEL, 200)
        embedding = tower.get_weights()[0]
        assert 0.099 < np.abs(embedding).max() <= 0.1
    tower = text_tower_from_settings(text("gru", embedding_dim=30, units=20), MODEL, 20)
    _, kernel, _, bias = tower.get_weights()[:4]
    limit = np.sqrt(6 / sum(kernel.shape))
    assert 0.9 * limit < np.abs(kernel).max() <= limit
    assert not bias.any()


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_seed_settles_weights_and_dropout(encoder: str) -> None:
    def run(seed: int) -> list[np.ndarray]:
        keras.utils.set_random_seed(seed)
        tower = text_tower_from_settings(text(encoder, dropout=0.3), MODEL, VOCABULARY)
        ids = IDS[:3]
        assert np.array_equal(tower(ids), tower(ids))
        outputs = [np.asarray(tower(ids, training=True)) for _ in range(2)]
        assert not np.array_equal(*outputs)
        return [*tower.get_weights(), *outputs]

    first, again, other = run(1), run(1), run(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[-1], other[-1])


def test_transformer_learns_word_order_and_needs_matching_heads() -> None:
    tower = text_tower_from_settings(text("transformer"), MODEL, VOCABULARY)
    assert np.abs(np.subtract(tower(np.array([[3, 7]])), tower(np.array([[7, 3]])))).max() > 1e-4
    with pytest.raises(UserError, match=r"text\.heads: 3 does not divide text\.units \(8\)"):
        text_tower_from_settings(text("transformer", heads=3), MODEL, VOCABULARY)


@pytest.mark.parametrize("encoder", ["gru", "bidirectional", "transformer"])
def test_tower_survives_its_config(encoder: str, tmp_path: Path) -> None:
    settings = text("gru", bidirectional=True) if encoder == "bidirectional" else text(encoder, dropout=0.2)
    tower = text_tower_from_settings(settings, ModelSettings(dim=6, head_units=10, dropout=0.1), VOCABULARY)
    again = rebuilt(tower)
    again.set_weights(tower.get_weights())
    assert np.array_equal(again(IDS), tower(IDS))
    tower.save_weights(tmp_path / "tower.weights.h5")
    again = rebuilt(tower)
    again.load_weights(tmp_path / "tower.weights.h5")
    assert np.array_equal(again(IDS), tower(IDS))


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")
def test_bert_is_the_mean_of_its_token_states(presets: dict[str, str]) -> None:
    tower = text_tower_from_settings(text(f"hub:{presets['bert']}"), MODEL, VOCABULARY)
    network = loaded(presets["bert"])
    expected = []
    for row, length in zip(IDS[:3], LENGTHS, strict=False):
        ids = row[None, :length]
        feeds = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}
        expected.append(np.mean(network(feeds)["sequence_output"][0], axis=0))
    np.testing.assert_allclose(backbone_of(tower)(IDS[:3]), expected, atol=1e-5)
    np.testing.assert_allclose(head_of(tower)(np.array(expected)), tower(IDS[:3]), atol=1e-5)


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_several_layers_are_their_states_at_tokens_side_by_side(presets: dict[str, str], name: str) -> None:
    network = loaded(presets[name])
    output = network.output["sequence_output"] if isinstance(network.output, dict) else network.output
    chosen = [output, network.get_layer("transformer_layer_0").output, network.get_layer("embeddings_dropout").output]
    states = keras.Model(network.input, chosen)
    tower = text_tower_from_settings(text(f"hub:{presets[name]}", stages=3, pooling="mean_max"), MODEL, VOCABULARY)
    got = np.asarray(backbone_of(tower)(IDS))
    for row, length, vector in zip(IDS[:3], LENGTHS, got, strict=False):
        ids = row[None, :length]
        feeds = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}
        found = states({tensor.name: feeds[tensor.name] for tensor in network.inputs})
        parts = [of(np.asarray(x)[0], axis=0) for x in found for of in (np.mean, np.max)]
        np.testing.assert_allclose(vector, np.concatenate([x / np.linalg.norm(x) for x in parts]), atol=1e-5)
    assert np.isfinite(got).all()  # a row of padding too
    again = rebuilt(tower)
    again.set_weights(tower.get_weights())
    assert np.array_equal(again(IDS), tower(IDS))


def test_more_layers_than_there_are_is_one_line(presets: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"text\.stages: 4, but preset .* has 3 layers of states"):
        text_tower_from_settings(text(f"hub:{presets['bert']}", stages=4), MODEL, VOCABULARY)
    with pytest.raises(UserError, match=r"text\.stages: 2, but preset .* gives a vector, no states"):
        text_tower_from_settings(text(f"hub:{presets['clip']}", stages=2), MODEL, VOCABULARY)


def test_clip_is_what_clip_compares_with_images(presets: dict[str, str]) -> None:
    tower = text_tower_from_settings(text(f"hub:{presets['clip']}"), MODEL, VOCABULARY)
    network = loaded(presets["clip"])
    for row, length in zip(IDS[:3], LENGTHS, strict=False):
        states = network.text_encoder({"token_ids": row[None, :length]})
        expected = network.text_projection(states[:, length - 1])  # the end token
        np.testing.assert_allclose(backbone_of(tower)(row[None]), expected, atol=1e-5)
    assert not any("vision" in weight.path for weight in tower.weights)


def test_siglip_reads_rows_filled_to_its_length(presets: dict[str, str]) -> None:
    tower = text_tower_from_settings(text(f"hub:{presets['siglip']}", max_tokens=10), MODEL, VOCABULARY)
    filled = np.pad(np.where(IDS >= 0, IDS, 1), [(0, 0), (0, 6)], constant_values=1)
    expected = loaded(presets["siglip"]).get_text_embeddings(filled)
    np.testing.assert_allclose(backbone_of(tower)(IDS), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "roberta", "clip", "siglip"])
def test_frozen_backbone_stays_and_needs_its_preset_no_more(presets: dict[str, str], tmp_path: Path, name: str) -> None:
    shutil.copytree(presets[name], tmp_path / "preset")
    tower = text_tower_from_settings(text(f"hub:{tmp_path / 'preset'}"), MODEL, VOCABULARY)
    shutil.rmtree(tmp_path / "preset")
    backbone = backbone_of(tower)
    feature = np.asarray(backbone(IDS))
    np.testing.assert_array_equal(backbone(IDS, training=True), feature)  # no dropout
    tower.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    tower.fit(IDS, np.ones((4, 6)), epochs=2, verbose=0)
    np.testing.assert_array_equal(backbone(IDS), feature)
    again = rebuilt(tower)
    again.set_weights(tower.get_weights())
    assert np.array_equal(again(IDS), tower(IDS))
    assert np.array_equal(again(IDS, training=True), tower(IDS))
    assert len(again.trainable_weights) == len(tower.trainable_weights) == 3


def test_trainable_backbone_learns(presets: dict[str, str]) -> None:
    tower = text_tower_from_settings(text(f"hub:{presets['bert']}", trainable=True), MODEL, VOCABULARY)
    feature = np.asarray(backbone_of(tower)(IDS))
    assert not np.array_equal(backbone_of(tower)(IDS, training=True), feature)  # dropout
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tower(IDS) ** 3)
    assert all(gradient is not None for gradient in tape.gradient(loss, tower.trainable_variables))
    tower.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    tower.fit(IDS, np.ones((4, 6)), verbose=0)
    assert np.abs(backbone_of(tower)(IDS) - feature).max() > 1e-4


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("grus", r"text\.encoder: no encoder 'grus' \(did you mean gru\?\)"),
        ("cnn", r"text\.encoder: no encoder 'cnn'.*gru, transformer, hub:<name>"),
        ("hub:bert_tiny_uncased", r"text\.encoder: no KerasHub preset .*did you mean bert_tiny_en_uncased"),
    ],
)
def test_wrong_encoder(encoder: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        text_tower_from_settings(text(encoder), MODEL, VOCABULARY)


def test_preset_that_does_not_fit(presets: dict[str, str], tmp_path: Path) -> None:
    for name in ("bert", "clip"):
        with pytest.raises(UserError, match=r"text\.max_tokens: 64, but preset .* reads 12"):
            text_tower_from_settings(text(f"hub:{presets[name]}", max_tokens=64), MODEL, VOCABULARY)
    with pytest.raises(UserError, match=r"text\.encoder: .*FNetBackbone\) is not a text encoder with a mask"):
        text_tower_from_settings(text(f"hub:{presets['fnet']}"), MODEL, VOCABULARY)
    shutil.copytree(presets["bert"], tmp_path / "broken")
    (tmp_path / "broken" / "model.weights.h5").write_text("no weights")
    with pytest.raises(UserError, match=r"text\.encoder: preset .* cannot be loaded"):
        text_tower_from_settings(text(f"hub:{tmp_path / 'broken'}"), MODEL, VOCABULARY)


def test_siglip_without_a_tokenizer_says_so(presets: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"text\.encoder: .*needs its tokenizer's padding token"):
        text_tower_from_settings(text(f"hub:{presets['siglip']}"), MODEL, VOCABULARY)


def test_masking_layers() -> None:
    ids, mask = SplitPadding(value=3)(IDS)
    assert np.array_equal(ids, np.where(IDS < 0, 3, IDS))
    assert np.array_equal(mask, IDS >= 0)
    assert np.array_equal(FillPadding(2, 9)(IDS[1:]), [[5, END], [END, 9], [9, 9]])
    assert FillPadding(8, 9)(IDS).shape == (4, 8)
    states = RNG.normal(size=(4, 6, 2)).astype(np.float32)
    states[IDS < 0] = np.nan
    means = [row[:length].mean(0) if length else np.zeros(2) for row, length in zip(states, LENGTHS, strict=True)]
    np.testing.assert_allclose(MaskedMean()(states, mask), means, atol=1e-6)


@pytest.mark.parametrize("encoder", ["gru", "bidirectional", "transformer", "hub:bert", "hub:clip", "hub:siglip"])
def test_a_rebuilt_tower_calls_its_weights_the_same(presets: dict[str, str], encoder: str) -> None:
    # Checkpoints find weights by these names.
    kind, _, preset = encoder.partition(":")
    chosen = f"hub:{presets[preset]}" if preset else {"bidirectional": "gru"}.get(kind, kind)
    tower = text_tower_from_settings(text(chosen, bidirectional=kind == "bidirectional"), MODEL, VOCABULARY)
    assert [weight.path for weight in rebuilt(tower).weights] == [weight.path for weight in tower.weights]
