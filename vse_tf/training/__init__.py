"""Training: from settings to a run folder with checkpoints, metrics and results. Start reading at `trainer.train`.

Its stages are `builder`, `resume` and `fitting`; the other modules are callbacks, or what the settings choose.
"""
