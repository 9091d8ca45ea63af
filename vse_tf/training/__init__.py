"""A training run: trainer, callbacks, optimizer, schedules, distribution, continuing and stopping."""
