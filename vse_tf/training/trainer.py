"""A training run from settings to results: build, compile, fit, measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vse_tf.artifacts.background import write_background
from vse_tf.artifacts.model_card import CardData, model_card
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.artifacts.trained_model import save_model
from vse_tf.config import Settings
from vse_tf.data.bad_images import BadImages
from vse_tf.data.records import Problem, Split
from vse_tf.data.sources import read
from vse_tf.data.training_splits import training_splits
from vse_tf.display import Phase, phase_if, say
from vse_tf.errors import Interrupted
from vse_tf.evaluation.bootstrap import intervals_of
from vse_tf.evaluation.chance import chance_metrics
from vse_tf.evaluation.metrics import measure_both
from vse_tf.setting_types import absolute_paths
from vse_tf.source_detection import with_source
from vse_tf.training.auto_settings import keep_choices
from vse_tf.training.builder import RunParts
from vse_tf.training.distribution import is_chief, make_strategy, worker_sum
from vse_tf.training.fitting import fit, measure_start
from vse_tf.training.hubness import correct
from vse_tf.training.progress import RunProgress
from vse_tf.training.resume import finished_results, start_or_resume
from vse_tf.training.run_sync import RunSync
from vse_tf.training.signals import SignalHandler
from vse_tf.training.summary import summary
from vse_tf.training.warm_start import check_start
from vse_tf.training.worker_sync import lost_worker_error

Results = dict[str, Any]
Galleries = dict[str, Mapping[str, Any]]
"""Metrics, or their intervals, by split."""


def train(settings: Settings, fill: Callable[[RunParts], None] | None = None) -> tuple[RunFolder, Results]:
    """Train a dual encoder; a run that its folder already holds is resumed, or, once finished, looked up.

    Args:
        settings: the run's settings.
        fill: changes the weights that a new run starts from.

    Returns:
        The run folder and its results, as in results.json; no results on a worker that is not the chief.

    Raises:
        UserError: the data, the settings or the run folder do not allow it, or the training has diverged.
        Interrupted: SIGTERM or Ctrl-C, here or at another worker of the run; the finished steps are saved.

    Example:
        >>> run, results = train(parse_settings(["--config", "configs/shapes.yaml"], "train", ""))
        >>> results["best"]["metrics"]["rsum"]
        591.4
    """
    settings = replace(settings, data=with_source(settings.data))
    run = RunFolder.of(settings)
    sync = RunSync(run, settings) if settings.train.sync_to else None
    if sync:
        sync.bring()
    settings = keep_choices(absolute_paths(settings), run)
    results = finished_results(run, settings)
    if results is not None:
        if sync:
            sync.finish()
        print(f"already finished: {run.path}, {results['last']['epoch']} epochs; for more epochs: --train.epochs N")
        return run, results
    if settings.train.init_from and not run.exists:
        check_start(settings.train.init_from)
    with SignalHandler() as signals:
        strategy = make_strategy(settings.distribution)
        # With several workers, TensorFlow takes SIGTERM for itself and does nothing with it.
        signals.install()
        try:
            if sync:
                sync.agree(strategy)
            results = _train(settings, run, strategy, signals, fill, sync.push if sync else None)
            if sync and is_chief(strategy):
                sync.finish()
            return run, results
        except tf.errors.OpError as error:
            lost = lost_worker_error(strategy, error)
            if lost is None:
                raise
            # This worker may have got the signal too, but no word of the others.
            signals.check()
            raise lost from None
        except Interrupted:
            if sync and is_chief(strategy):
                sync.finish()
            raise
        finally:
            run.unlock()


def _train(
    settings: Settings,
    run: RunFolder,
    strategy: tf.distribute.Strategy,
    signals: SignalHandler,
    fill: Callable[[RunParts], None] | None,
    saved: Callable[[], None] | None = None,
) -> Results:
    train, chief = settings.train, is_chief(strategy)
    keras.utils.set_random_seed(train.seed)
    if train.deterministic:
        tf.config.experimental.enable_op_determinism()
    begun = run.exists
    if chief:
        run.claim()

    # Build.
    with phase_if(chief, "reading the data"):
        found = read(settings.data, progress=chief)
        collection = training_splits(found, settings.data)
    for note in collection.notes[len(found.notes) :] if chief else ():
        print(note)
    left_out = list(collection.skipped)

    def leave_out(problem: Problem) -> None:
        left_out.append(problem)
        say(f"left out: {problem}")
        if chief:
            run.write_skipped(left_out)

    bad = BadImages(settings.data.on_bad, settings.data.max_pixels, leave_out)
    with phase_if(chief, "building the model"):
        parts = RunParts(settings, run, collection, strategy, bad)
    if chief:
        # Not earlier: settings that do not fit the data leave no run behind.
        run.create(parts.settings, begun)
        write_background(run.path, parts.training.captions, train.seed)
        for note in parts.notes:
            print(note)
        if left_out:
            run.write_skipped(left_out)
            print(f"{len(left_out)} problems in the data, left out and listed in {run.skipped}")
    parts.prepare_splits()

    # Compile.
    with phase_if(chief, "compiling the model"):
        parts.compile()
        if chief:
            save_model(run, parts.model, parts.tokenizer, parts.view)

    # Fit, from the newest checkpoint on.
    with phase_if(chief, "looking for a checkpoint"):
        progress = start_or_resume(parts, fill)
    if chief:
        run.replace_metrics(progress.rows)
        measure_start(parts, progress)
    if progress.position.epoch < train.epochs and not progress.stopped:
        if chief:
            print(summary(parts), flush=True)
        fit(parts, progress, signals, saved)

    # Measure the best model.
    if chief:
        with Phase("loading the best model"):
            parts.checkpoints.restore(parts.model, "best", training=False)
        # The bank is written before the results: without them the run is not finished.
        correct(parts)
        results = progress.results(parts.provenance, **_measure(parts, progress))
        # Before the results: a run that is killed here is not finished, and the next command sweeps again.
        parts.checkpoints.finish()
        run.write_card(_card(parts, results))
        run.write_results(results)
    # Wait for the chief: a worker that ends early takes the others down.
    worker_sum(strategy, 1)([0.0])
    return (run.read_results() or {}) if chief else {}


def _measure(parts: RunParts, progress: RunProgress) -> dict[str, Galleries]:
    """What `RunProgress.results` says of the best model on every split but train.

    The metrics of val stay those that made it the best one.
    """
    keys = ("galleries", "chance", "corrected", "intervals", "intervals_corrected")
    found: dict[str, Galleries] = {key: {} for key in keys}
    embedder = parts.embedder
    for name, split in {**parts.collection.splits, "val": parts.validation}.items():
        if name == "train":
            continue
        seen = split if name == "val" else parts.with_image_features(split)
        with Phase(f"measuring {name}"):
            every = measure_both(embedder, embedder.encode_split(seen, parts.bad, progress=True))
            plain, corrected = every["metrics"], every.get("metrics_corrected")
            found["galleries"][name] = plain.metrics if name != "val" else progress.best["metrics"]
            found["intervals"][name] = intervals_of(plain)
            found["chance"][name] = chance_of(seen)
            if corrected:
                found["corrected"][name] = corrected.metrics
                found["intervals_corrected"][name] = intervals_of(corrected)
    return found


def _card(parts: RunParts, results: Results) -> str:
    """The model card of the finished run."""
    splits = {**parts.collection.splits, "train": parts.training, "val": parts.validation}
    vocabulary = getattr(parts.tokenizer, "vocabulary", None)
    data = CardData(
        {name: (len(split), len(split.captions)) for name, split in splits.items()},
        None if vocabulary is None else len(vocabulary) - 3,  # the markers
    )
    return model_card(parts.run.path.absolute().name, parts.settings, results, data, parts.run.read_card())


def chance_of(split: Split) -> dict[str, float]:
    """The metrics of a ranking of the split at random."""
    return chance_metrics(np.array(split.caption_rows), len(split))
