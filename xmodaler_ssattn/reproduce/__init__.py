"""Train, score and compare many rows and seeds from one plan file: the paper's tables, and similar studies."""
