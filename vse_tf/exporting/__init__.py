"""A trained model as SavedModels: image tower, text tower and retrieval model, as TensorFlow Serving loads them.

Also other formats (ONNX, LiteRT), and the probes that compare a written model with the live one.
"""
