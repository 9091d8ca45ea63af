"""Training: devices, optimizer, checkpoints, callbacks, the run folder."""
