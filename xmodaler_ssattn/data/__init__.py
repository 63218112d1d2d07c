"""From the official files to samples: annotations, vocabulary, region store, sigma, the registered dataset.

Nothing here knows the model or the evaluation. Only ``mapper`` needs torch and the host.
"""
