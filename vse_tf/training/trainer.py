"""A training run from settings to results: build, compile, fit, measure."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.config import Settings
from vse_tf.data.bad_images import BadImages
from vse_tf.data.records import Problem
from vse_tf.data.sources import read
from vse_tf.data.training_splits import training_splits
from vse_tf.embedder import save_model
from vse_tf.evaluation.metrics import measure
from vse_tf.setting_types import absolute_paths
from vse_tf.training.builder import RunParts
from vse_tf.training.distribution import is_chief, make_strategy, worker_sum
from vse_tf.training.fitting import fit
from vse_tf.training.progress import RunProgress
from vse_tf.training.resume import finished_results, start_or_resume
from vse_tf.training.signals import SignalHandler
from vse_tf.training.worker_sync import lost_worker_error

Results = dict[str, Any]


def train(settings: Settings) -> tuple[RunFolder, Results]:
    """Train a dual encoder; a run that its folder already holds is resumed, or, once finished, looked up.

    Args:
        settings: the run's settings.

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
    settings = absolute_paths(settings)
    run = RunFolder.of(settings)
    results = finished_results(run, settings)
    if results is not None:
        return run, results
    with SignalHandler() as signals:
        strategy = make_strategy(settings.distribution)
        # With several workers, TensorFlow takes SIGTERM for itself and does nothing with it.
        signals.install()
        try:
            return run, _train(settings, run, strategy, signals)
        except tf.errors.OpError as error:
            lost = lost_worker_error(strategy, error)
            if lost is None:
                raise
            # This worker may have got the signal too, but no word of the others.
            signals.check()
            raise lost from None
        finally:
            run.unlock()


def _train(settings: Settings, run: RunFolder, strategy: tf.distribute.Strategy, signals: SignalHandler) -> Results:
    train, chief = settings.train, is_chief(strategy)
    keras.utils.set_random_seed(train.seed)
    if train.deterministic:
        tf.config.experimental.enable_op_determinism()
    begun = run.exists
    if chief:
        run.claim()

    # Build.
    found = read(settings.data, progress=chief)
    collection = training_splits(found, settings.data)
    for note in collection.notes[len(found.notes) :] if chief else ():
        print(note)
    left_out = list(collection.skipped)

    def leave_out(problem: Problem) -> None:
        left_out.append(problem)
        print(f"left out: {problem}")
        if chief:
            run.write_skipped(left_out)

    bad = BadImages(settings.data.on_bad, settings.data.max_pixels, leave_out)
    parts = RunParts(settings, run, collection, strategy, bad)
    if chief:
        # Not earlier: settings that do not fit the data leave no run behind.
        run.create(settings, begun)
        if left_out:
            run.write_skipped(left_out)
            print(f"{len(left_out)} problems in the data, left out and listed in {run.skipped}")
    parts.prepare_splits()

    # Compile.
    parts.compile()
    if chief:
        save_model(run, parts.model, parts.tokenizer, parts.view)

    # Fit, from the newest checkpoint on.
    progress = start_or_resume(parts)
    if chief:
        run.replace_metrics(progress.rows)
    if progress.position.epoch < train.epochs and not progress.stopped:
        fit(parts, progress, signals)

    # Measure the best model.
    if chief:
        parts.checkpoints.restore(parts.model, "best", training=False)
        results = progress.results(parts.provenance, _measure(parts, progress))
        # Before the results: a run that is killed here is not finished, and the next command sweeps again.
        parts.checkpoints.finish()
        run.write_results(results)
    # Wait for the chief: a worker that ends early takes the others down.
    worker_sum(strategy, 1)([0.0])
    return (run.read_results() or {}) if chief else {}


def _measure(parts: RunParts, progress: RunProgress) -> dict[str, dict[str, float]]:
    """The best model's metrics on every split but train; those of val are known."""
    galleries = {"val": progress.best["metrics"]}
    for name, split in parts.collection.splits.items():
        if name not in ("train", "val"):
            galleries[name] = measure(parts.embedder.encode_split(parts.with_image_features(split), parts.bad))
    return galleries
