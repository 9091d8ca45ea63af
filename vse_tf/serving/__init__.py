"""The local server for development: TensorFlow Serving's REST API over HTTP, and a search page.

It loads exported models and imports nothing that trains or exports.
"""
