"""The model card of a run: what it is, what it was made of, what it reaches, and how to use it. No TensorFlow here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vse_tf.artifacts.provenance import without_folders
from vse_tf.config import Settings, to_dict
from vse_tf.used_settings import unused

LICENCE = "not stated; fill in the licence of the weights, and mind those of the data and of the pretrained parts"
SMALL = 200
"""Galleries with fewer images are called small."""
_COLUMNS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "rsum")
_LICENCE_LINE = re.compile(r"^- Licence: (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class CardData:
    """What a card says of the data.

    Args:
        splits: number of images and of captions by split.
        words: number of words that the model knows; None where a preset brings its own tokenizer.
    """

    splits: Mapping[str, tuple[int, int]]
    words: int | None


def model_card(name: str, settings: Settings, results: Mapping[str, Any], data: CardData, before: str = "") -> str:
    """Write the card of a finished run.

    Args:
        name: name of the run.
        settings: the run's settings.
        results: the contents of results.json.
        data: what the run was trained on and measured with.
        before: an earlier card of the same run; its licence is taken over.

    Returns:
        Markdown.
    """
    stated = _LICENCE_LINE.search(before)
    provenance = results["provenance"]
    parts = [
        f"# Model card: {_plain(name)}\n",
        "Embeds images and captions as unit vectors of one space, so that a caption is near to the images that it "
        f"describes. Trained with vse_tf {provenance['vse_tf']}.\n",
        _list(
            [
                ("Licence", stated[1] if stated else LICENCE),
                ("Intended use", "retrieval: images by text, text by images, images by images"),
                ("Dimensions", settings.model.dim),
                ("Model", _chosen(settings, results)),
            ]
        ),
        "## Data\n",
        _data(settings, provenance, data),
        "## Recipe\n",
        _recipe(settings, provenance),
        "## Figures\n",
        _figures(results, data),
        "## Limits\n",
        "".join(f"- {line}\n" for line in _limits(settings, results, data)),
        "## Use\n",
        _use(name, settings),
    ]
    return "\n".join(parts)


def _chosen(settings: Settings, results: Mapping[str, Any]) -> str:
    last, between = results["last"]["epoch"], results["provenance"].get("interpolation")
    if between:
        name = _plain(Path(between["run"]).name)
        return f"weights between the start of the run {name} (0) and its best ones (1), at {between['share']:g}"
    if not last:
        return "its encoders as they are, without training"
    return f"epoch {results['best']['epoch']} of {last}, the best by {_monitored(settings)}"


def _monitored(settings: Settings) -> str:
    return f"{settings.train.monitor} on the validation split"


def _data(settings: Settings, provenance: Mapping[str, Any], data: CardData) -> str:
    source: Any = without_folders(to_dict(settings.data))
    named = source["annotations"] or source["tfds"]["name"] or "generated"
    names = ", ".join(Path(each).name for each in ([named] if isinstance(named, str) else named))
    rows = [(split, f"{images:,}", f"{captions:,}") for split, (images, captions) in data.splits.items()]
    return (
        f"Source: {settings.data.source} ({_plain(names)}). Fingerprint of splits, names and captions: "
        f"`{provenance['data_sha256'][:16]}`.\n\n" + _table(("split", "images", "captions"), rows)
    )


def _recipe(settings: Settings, provenance: Mapping[str, Any]) -> str:
    shown: Any = without_folders(to_dict(settings))
    image, text, train, loss = (shown[section] for section in ("image", "text", "train", "loss"))
    pretrained = image["encoder"].partition(":")[0] in ("applications", "hub")
    how = f"{'trained further' if image['trainable'] else 'frozen'}" if pretrained else "trained from scratch"
    temperature = "" if unused(settings, ["loss.temperature"]) else f", temperature {_number(loss['temperature'])}"
    lines = [
        ("Image encoder", f"{image['encoder']}, {how}"),
        ("Text encoder", text["encoder"]),
        ("Objective", loss["name"] + temperature),
        ("Training", f"{train['epochs']} epochs of batches of {train['batch_size']}, Adam at "
                     f"{train['learning_rate']:g} ({train['schedule']}), seed {train['seed']}"
                     if train["epochs"] else "none"),
        ("Hubness correction", "yes" if settings.model.hubness_correction else "no"),
        ("Software", ", ".join(f"{key} {value}" for key, value in provenance["versions"].items())),
    ]  # fmt: skip
    return (
        _list(lines) + "\nEvery setting is in `config.yaml` of the run, and in `manifest.json` of an exported model.\n"
    )


def _figures(results: Mapping[str, Any], data: CardData) -> str:
    rows = []
    for key, label in (("galleries", ""), ("galleries_corrected", ", corrected")):
        for split, metrics in results.get(key, {}).items():
            ends = results.get(key.replace("galleries", "intervals"), {}).get(split, {})
            rows.append([f"{split}{label}", *(_with_interval(metrics, ends, name) for name in _COLUMNS)])
            if not label and split in results.get("chance", {}):
                rows.append(["chance", *(f"{results['chance'][split][name]:.1f}" for name in _COLUMNS)])
    head = ["split", *(name.replace("_r", " R@") for name in _COLUMNS[:-1]), "rsum"]
    sizes = ", ".join(f"{split} {images:,}" for split, (images, _) in data.splits.items() if split != "train")
    return (
        f"Recalls in percent, with 95 % intervals (bootstrap over images with all their captions). Images in the "
        f"galleries: {sizes}.\n\n" + _table(head, rows)
    )


def _with_interval(metrics: Mapping[str, float], ends: Mapping[str, Sequence[float]], name: str) -> str:
    interval = f" ({ends[name][0]:.1f} to {ends[name][1]:.1f})" if name in ends else ""
    return f"{metrics[name]:.1f}{interval}"


def _limits(settings: Settings, results: Mapping[str, Any], data: CardData) -> Iterable[str]:
    yield (
        "The figures hold for galleries of these images and of this size; recalls of galleries of other sizes cannot "
        "be compared."
    )
    if results["last"]["epoch"]:
        yield f"The model was chosen by {_monitored(settings)}, so the figures of that split are somewhat too high."
    small = [name for name, (images, _) in data.splits.items() if name != "train" and images < SMALL]
    if small:
        yield f"Small galleries ({', '.join(small)}): a few points may be luck, as the intervals show."
    if data.words is not None:
        yield (
            f"Its vocabulary has {data.words:,} words, those seen {settings.text.min_count} times or more in the "
            "training captions; others are all one unknown word, and captions in another language are not understood."
        )
    yield "Similarities rank; they are no probabilities, and what is nearest need not be right."
    if "galleries_corrected" in results:
        yield "Corrected similarities are no cosines: 0 does not mean unrelated."
    if settings.data.source == "shapes":
        yield "It was trained on drawn scenes of two objects only and is not meant for photos."
    else:
        yield "It repeats what its images and captions show and leave out, prejudices about people among them."


def _use(name: str, settings: Settings) -> str:
    # In code nothing is escaped.
    folder = re.sub(r"[`\"\s]+", " ", name)
    image = "one image's features" if settings.image.encoder == "features" else '"photo.jpg"'
    body = '{"instances": [{"b64": "…"}]}' if settings.image.encoder != "features" else '{"instances": [[0.1, …]]}'
    return (
        "```python\n"
        "import vse_tf\n\n"
        f'model = vse_tf.load("runs/{folder}")\n'
        f"images = model.encode_images([{image}])\n"
        'scores = model.encode_texts(["two dogs in the snow"]) @ images.T\n'
        "```\n\n"
        "Exported (`python -m vse_tf.export`), served by `python -m vse_tf.serve` or TensorFlow Serving:\n\n"
        "```sh\n"
        'curl -d \'{"instances": ["two dogs in the snow"]}\' http://127.0.0.1:8501/v1/models/text_tower:predict\n'
        f"curl -d '{body}' http://127.0.0.1:8501/v1/models/image_tower:predict\n"
        "```\n"
    )


def _number(value: float | str) -> str:
    return f"of the {value}" if isinstance(value, str) else f"{value:g}"


def _list(lines: Iterable[tuple[str, object]]) -> str:
    return "".join(f"- {name}: {value}\n" for name, value in lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _plain(name: str) -> str:
    """A name in one line that no Markdown is read from."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(name.split()))
