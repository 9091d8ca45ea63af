"""Configs that name code, programs or files are refused; those of this package's models pass."""

import keras_hub  # noqa: F401 (its layers are known once it is imported)
import pytest

from vse_tf.artifacts.keras_configs import check_keras_config


def layer(name, module="keras.layers", registered=None, **config):
    return {"class_name": name, "module": module, "registered_name": registered, "config": config}


@pytest.mark.parametrize(
    "config",
    [
        layer("Dense", units=3, kernel_initializer=layer("GlorotUniform", "keras.initializers")),
        layer("L2Normalize", "vse_tf.models.projection", "vse_tf>L2Normalize"),
        layer(
            "TransformerEncoder", "keras_hub.src.layers.modeling.transformer_encoder", "keras_hub>TransformerEncoder"
        ),
        layer("CLIPTextPooler", "keras_hub.src.models.clip.clip_layers", "CLIPTextPooler"),
        layer("MBConvBlock", "keras_hub.src.models.efficientnet.mbconv", "MBConvBlock"),
        layer("Functional", "keras.src.models.functional", "Functional", layers=[layer("InputLayer")]),
        layer("Add", "keras.src.ops.numpy", "Add"),
        layer("DTypePolicy", "keras"),
        {"class_name": "function", "module": "builtins", "config": "keras_hub>gelu_approximate"},
        {"class_name": "function", "module": "builtins", "config": "relu", "registered_name": "function"},
        # BERT's.
        layer("ReversibleEmbedding", input_dim=9, output_dim=4),
        {"class_name": "__keras_tensor__", "config": {"shape": [None, 3], "dtype": "float32", "keras_history": []}},
    ],
)
def test_known_classes_pass(config):
    check_keras_config({"model": [{"inside": config}]})


@pytest.mark.parametrize(
    "config",
    [
        layer("Lambda", function=["4wEAAAA=", None, None]),
        layer("Lambda", "vse_tf.models", "vse_tf>Lambda"),
        {"class_name": "__lambda__", "config": {"value": "4wEAAAA="}},
        layer("TFSMLayer", filepath="/tmp/program"),
        layer("StringLookup", vocabulary="/etc/passwd"),
        layer("TextVectorization", vocabulary="http://example.org/words"),
        layer("system", "os"),
        layer("Popen", "subprocess", "subprocess>Popen"),
        layer("Dense", "keras.layers", "other>Dense"),
        layer("get_file", "keras.utils"),
        layer("load_model", "keras.src.saving.saving_api", "load_model"),
        layer("load_model", "keras"),
        layer("Anything", "keras_hub.src.models", "Anything"),
        layer("Anything", "keras_hub.src.utils.preset_utils", "Anything"),
        layer("Anything", "keras_hub.src.models.clip.clip_layers", "other>Anything"),
        layer("Lambda", "keras_hub.src.models.clip.clip_layers", "Lambda"),
        layer("Dense", None),
        layer("Dense", "keras.layers.."),
        {"class_name": "function", "module": "os", "config": "system", "registered_name": "function"},
        {"class_name": ["Dense"], "module": "keras.layers", "config": {}},
        {"class_name": "__typespec__", "module": "os", "config": [], "spec_name": "system", "registered_name": "x"},
    ],
)
def test_other_classes_are_refused_by_name(config):
    with pytest.raises(ValueError, match="not loaded from a folder"):
        check_keras_config({"model": layer("Functional", "keras.models", layers=[layer("Dense"), config])})


@pytest.mark.parametrize(
    "config",
    [
        layer(
            "WhisperTokenizer", "keras_hub.src.models.whisper.whisper_tokenizer", "keras_hub>WhisperTokenizer", path="x"
        ),
        layer("PARSeqTokenizer", "keras_hub.src.models.parseq.parseq_tokenizer", "keras_hub>PARSeqTokenizer"),
        layer("BertTokenizer", "keras_hub.src.models.bert.bert_tokenizer", "keras_hub>BertTokenizer"),
        layer("BertBackbone", "keras_hub.src.models.bert.bert_backbone", "keras_hub>BertTokenizer"),
        layer("CLIPImageConverter", "keras_hub.src.models.clip.clip_image_converter", "keras_hub>CLIPImageConverter"),
        layer("BertTextClassifier", "keras_hub.src.models.bert.bert_text_classifier", "keras_hub>BertTextClassifier"),
        layer("WordPieceTokenizer", "keras_hub.src.tokenizers.word_piece_tokenizer", "keras_hub>WordPieceTokenizer"),
        layer("Tokenizer", "keras_hub.src.models.bert.bert_backbone", "Tokenizer"),
        layer("WhisperTokenizer", "vse_tf.models", "keras_hub>WhisperTokenizer"),
        layer("L2Normalize", "vse_tf.models.projection", "keras_hub>WhisperTokenizer"),
        layer("HashedCrossing"),
        layer("Map", "keras.src.ops.core", "Map"),
        {"class_name": "function", "module": "builtins", "config": "keras_hub>WhisperTokenizer"},
        {"class_name": "function", "module": "builtins", "config": "keras_hub>upload_preset"},
        {"class_name": "function", "module": "builtins", "config": ["relu"]},
        {"class_name": "__numpy__", "config": {"value": [0], "dtype": "V1000000000"}},
        {**layer("Dense"), "compile_config": {"optimizer": "adam"}},
    ],
)
def test_what_opens_files_is_not_on_the_list(config):
    with pytest.raises(ValueError, match="not loaded from a folder"):
        check_keras_config({"model": layer("Dense", activation=config)})


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (layer("Dense", activation="keras_hub>WhisperTokenizer"), "is not an argument"),
        (layer("Dense", activation="x" * 2000), "is not an argument"),
        (layer("Dense", units=2**31), "beyond"),
        ([layer("Dense")] * 50_000, "more than 40000 objects"),
        (
            layer("BertBackbone", "keras_hub.src.models.bert.bert_backbone", "keras_hub>BertBackbone", num_layers=9999),
            "9999 parts",
        ),
    ],
    ids=["registered name", "long", "large", "many", "deep"],
)
def test_absurd_arguments_are_refused(config, wanted):
    with pytest.raises(ValueError, match=wanted):
        check_keras_config(config)


def test_a_deep_config_is_no_recursion():
    config = layer("Lambda")
    for _ in range(10_000):
        config = [config]
    with pytest.raises(ValueError, match="Lambda"):
        check_keras_config(config)
