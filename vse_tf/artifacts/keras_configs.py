"""Checks Keras configs of untrusted run folders: a closed list of layers and models, arguments of bounded size.

Keras builds any class that a config names. Some of them load programs or open the paths and addresses in their
arguments, as KerasHub's tokenizers do; therefore only the classes listed here are built.
"""

from __future__ import annotations

import re
import sys
from typing import Any


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Layers of keras.applications, KerasHub's backbones and this package's towers.
LAYERS = _names(
    """
    Activation Add Average AveragePooling1D AveragePooling2D BatchNormalization Bidirectional Concatenate Conv1D
    Conv2D Conv2DTranspose Cropping1D Cropping2D Dense DepthwiseConv1D DepthwiseConv2D Dropout ELU EinsumDense
    Embedding Flatten GRU GRUCell GlobalAveragePooling1D GlobalAveragePooling2D GlobalMaxPooling1D
    GlobalMaxPooling2D GroupNormalization GroupQueryAttention GroupedQueryAttention Identity InputLayer
    LayerNormalization LeakyReLU
    MaxPooling1D MaxPooling2D Maximum Minimum MultiHeadAttention Multiply Normalization PReLU Permute
    RMSNormalization ReLU Rescaling Reshape Resizing ReversibleEmbedding SeparableConv1D SeparableConv2D Softmax
    SpatialDropout1D SpatialDropout2D Subtract UnitNormalization UpSampling2D ZeroPadding1D ZeroPadding2D
    """
)
MODELS = frozenset(["Functional", "Model", "Sequential"])
INITIALIZERS = _names(
    """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones Orthogonal
    OrthogonalInitializer RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros
    """
)
KERAS = {
    "keras": MODELS | {"DTypePolicy"},
    "keras.constraints": frozenset(["MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"]),
    "keras.dtype_policies": frozenset(["DTypePolicy"]),
    "keras.initializers": INITIALIZERS,
    "keras.layers": LAYERS,
    "keras.models": MODELS,
    "keras.regularizers": frozenset(["L1", "L1L2", "L2"]),
    "keras.src.applications.convnext": frozenset(["LayerScale"]),
    "keras.src.applications.inception_resnet_v2": frozenset(["CustomScaleLayer"]),
    "keras.src.dtype_policies.dtype_policy": frozenset(["DTypePolicy"]),
    "keras.src.models.functional": MODELS,
    "keras.src.models.model": MODELS,
    "keras.src.models.sequential": MODELS,
    "keras.src.ops.core": frozenset(["Cast", "Slice", "StopGradient"]),
}
# All classes of these modules are computations on tensors.
_OPS = frozenset(["keras.src.ops.math", "keras.src.ops.nn", "keras.src.ops.numpy"])
OWN = _names(
    """
    ApplicationsPreprocessing AttentionPooling BackboneTail ClassToken FillPadding GridNorm L2Normalize
    LearnedTemperature MaskedMax MaskedMean PackStates PackedGRU PretrainedBackbone SplitPadding UnpackStates
    ZeroPadding
    """
)
# KerasHub's families of networks that read images or texts.
FAMILIES = _names(
    """
    albert bert bloom clip cspnet deberta_v3 deeplab_v3 deit densenet dinov2 dinov3 distil_bert efficientnet electra
    esm f_net falcon gemma gemma3 gpt2 gpt_neo_x gpt_oss hgnetv2 llama llama3 metaclip_2 mistral mit mixtral
    mobilenet mobilenetv5 opt pali_gemma phi3 qwen qwen3 qwen3_moe qwen_moe resnet retinanet roberta
    roformer_v2 sam segformer siglip smollm3 swin_transformer t5 vgg vit vit_det xception xlm_roberta xlnet
    """
)
_HUB = re.compile(r"keras_hub\.src\.(?:models\.(\w+)\.\w+|layers\.modeling\.\w+)")
ACTIVATIONS = _names(
    """
    celu elu exponential gelu gelu_approximate glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh
    leaky_relu linear log_sigmoid log_softmax mish quick_gelu relu relu6 selu sigmoid silu soft_shrink softmax
    softplus softsign sparse_plus sparse_sigmoid sparsemax squareplus swish tanh tanh_shrink threshold
    """
)
# A closed list: functions that write files, such as `upload_preset`, are registered in the same way.
HUB_ACTIVATIONS = frozenset(["keras_hub>gelu_approximate", "keras_nlp>gelu_approximate"])
VALUES = {"__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__", "__tuple__"}
# Arguments of KerasHub's networks that are numbers of layers or blocks.
_PARTS = re.compile(r"layer|block|depth|repeat|stage")
_WIDTHS = re.compile(r"filter|channel|dim|size|width|norm|scale|dropout|drop|epsilon|eps|stride|shape|ratio|index")
# NASNetLarge, the largest known model, has 9,000 objects.
MOST_OBJECTS, MOST_PARTS, LARGEST, LONGEST = 40_000, 1024, 2**31 - 1, 1000


def check_keras_config(config: object) -> None:
    """Refuse a config with classes that are not listed, or with too large arguments.

    KerasHub's layers are accepted if `keras_hub` has been imported; nothing is imported here.

    Args:
        config: a result of `keras.saving.serialize_keras_object`, or a dictionary of such, read from JSON.

    Raises:
        ValueError: a class or argument is refused; the message names it.

    Example:
        >>> check_keras_config({"class_name": "Lambda", "module": "keras.layers", "config": {}})
        Traceback (most recent call last):
        ValueError: it names keras.layers.Lambda, which is not loaded from a folder
    """
    waiting: list[tuple[str, object]] = [("", config)]
    objects = 0
    while waiting:
        key, item = waiting.pop()
        if isinstance(item, dict):
            if "class_name" in item:
                objects += 1
                _check_object(item)
                if objects > MOST_OBJECTS:
                    raise ValueError(f"it describes more than {MOST_OBJECTS} objects")
            elif {"registered_name", "compile_config"} & item.keys():
                raise ValueError("it holds a registered_name or compile_config outside of an object")
            waiting.extend((str(name), value) for name, value in item.items())
        elif isinstance(item, (list, tuple)):
            waiting.extend((key, value) for value in item)
        elif isinstance(item, str):
            # A ">" would let Keras take the string for one of its registered classes.
            if len(item) > LONGEST or (">" in item and key != "registered_name" and item not in HUB_ACTIVATIONS):
                raise ValueError(f"{key}: {item[:60]!r} is not an argument of a layer")
        elif isinstance(item, int) and abs(item) > LARGEST:
            raise ValueError(f"{key}: a number beyond {LARGEST}")


def _check_object(item: dict[str, Any]) -> None:
    name, module, registered = item["class_name"], item.get("module"), item.get("registered_name")
    if not _known(name, module, registered, item.get("config")) or item.get("compile_config"):
        raise ValueError(f"it names {str(module)[:100]}.{str(name)[:100]}, which is not loaded from a folder")
    if isinstance(module, str) and module.startswith("keras_hub."):
        parts = _parts(item.get("config"))
        if parts > MOST_PARTS:
            raise ValueError(f"it describes a {name} of {parts} parts; at most {MOST_PARTS} are built")


def _known(name: object, module: object, registered: object, config: object) -> bool:
    if not isinstance(name, str) or not isinstance(registered, (str, type(None))) or not isinstance(module, str):
        return isinstance(name, str) and name in VALUES and _is_array_of_numbers(config)
    if name == "function":
        activation = (
            isinstance(config, str)
            and config in ACTIVATIONS | HUB_ACTIVATIONS
            and registered in (None, "function", config)
        )
        return activation and module in ("builtins", "keras.activations")
    if module.startswith("vse_tf."):
        return name in OWN and registered == f"vse_tf>{name}"
    if module.startswith("keras_hub."):
        return _is_hub_layer(name, module, registered)
    return registered in (None, name) and (module in _OPS or name in KERAS.get(module, ()))


def _is_array_of_numbers(config: object) -> bool:
    """Whether a value has a numeric dtype or none: NumPy has dtypes of a billion bytes."""
    dtype = config.get("dtype", "float32") if isinstance(config, dict) else "float32"
    return (
        isinstance(dtype, str) and re.fullmatch(r"bool|bfloat16|u?int(8|16|32|64)|float(16|32|64)", dtype) is not None
    )


def _is_hub_layer(name: str, module: str, registered: str | None) -> bool:
    found = _HUB.fullmatch(module)
    if not found or found[1] not in (None, *FAMILIES) or module not in sys.modules:
        return False
    import keras  # noqa: PLC0415 (imported with KerasHub)
    from keras_hub import layers, models, tokenizers  # noqa: PLC0415

    kind = vars(sys.modules[module]).get(name)
    if not isinstance(kind, type) or kind.__module__ != module or not issubclass(kind, keras.layers.Layer):
        return False
    # Preprocessing and tasks read files; networks and their layers do not.
    readers = (tokenizers.Tokenizer, models.Preprocessor, models.Task, layers.ImageConverter, layers.AudioConverter)
    if issubclass(kind, readers) or hasattr(kind, "load_preset_assets"):
        return False
    return registered in (None, name, keras.saving.get_registered_name(kind))


def _parts(config: object) -> int:
    """Sum of the numbers of layers and blocks in a network's config."""
    total = 0
    waiting = [(str(key), value) for key, value in config.items()] if isinstance(config, dict) else []
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, list):
            waiting.extend((key, item) for item in value)
        elif isinstance(value, int) and _PARTS.search(key) and not _WIDTHS.search(key):
            total += abs(value)
    return total
