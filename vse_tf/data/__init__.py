"""From a caption file to batches: records, sources, images, text, pipeline."""
