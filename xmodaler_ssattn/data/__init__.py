"""From the official files to samples: annotations, vocabulary, records, sigma, the registered dataset.

Nothing here depends on the model or the evaluation. Only ``mapper`` and ``inputs`` need torch and the host.
"""
