"""Caption files to validated records to `tf.data` batches.

Sources read what people have, `records` is what all of them give, `pipeline` batches it in the order of `order`.
"""
