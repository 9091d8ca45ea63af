"""What outlives a process: run folders with their checkpoints, indexes, exported versions.

Formats, paths and integrity of these folders; nothing here trains, embeds or exports.
"""
