"""Images and captions to model input, defined once for `tf.data` pipelines and for exported graphs.

Decoding, headers and limits, views of images, tokenizers: what training, evaluation and a served model share.
"""
