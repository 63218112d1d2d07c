"""The sample detector's scores: softmax regression from descriptors, fitted in a second, always to the same result."""

from __future__ import annotations

import numpy as np

STEPS = 25
STEP_SIZE = 4.0
SHRINKAGE = 2e-3  # weight decay in the whitened space


def softmax(scores: np.ndarray) -> np.ndarray:
    """(n, C) -> (n, C), each row sums to 1; the dtype stays."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fit_softmax(inputs: np.ndarray, labels: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit p(class | x) = softmax(x W + b) by maximum likelihood with a little shrinkage.

    The inputs are whitened first: gradient descent with momentum then needs few steps, and no random start.

    Args:
        inputs: (n, D) float32; labels: (n,) integers in 0..num_classes - 1.

    Returns:
        W (D, C) and b (C,), float32, for the inputs as given.
    """
    mean = inputs.mean(axis=0, dtype=np.float64)
    centred = (inputs - mean).astype(np.float32)
    covariance = centred.T @ centred / len(inputs)
    values, vectors = np.linalg.eigh(covariance.astype(np.float64))
    whitening = (vectors / np.sqrt(np.maximum(values, 1e-4 * values.max()))).astype(np.float32)
    white = centred @ whitening

    targets = np.zeros((len(inputs), num_classes), dtype=np.float32)
    targets[np.arange(len(inputs)), labels] = 1.0
    weights, bias = np.zeros((white.shape[1], num_classes), np.float32), np.zeros(num_classes, np.float32)
    speed_w, speed_b = np.zeros_like(weights), np.zeros_like(bias)
    for _ in range(STEPS):
        error = (softmax(white @ weights + bias) - targets) / len(inputs)
        speed_w = 0.8 * speed_w - STEP_SIZE * (white.T @ error + SHRINKAGE * weights)
        speed_b = 0.8 * speed_b - STEP_SIZE * error.sum(axis=0)
        weights, bias = weights + speed_w, bias + speed_b
    weights = whitening @ weights
    return weights, (bias - mean.astype(np.float32) @ weights).astype(np.float32)
