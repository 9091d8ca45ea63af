"""Ranks and metrics; the index, what embeds into it and what searches it. No TensorFlow is imported here."""
