"""A detector that a person can follow: its regions are strips of the picture, its features their mean colours."""

import numpy as np

from xmodaler_ssattn.detectors.detected import Detected
from xmodaler_ssattn.errors import UserError


class FakeDetector:
    """Two strips, left and right half. Features: mean blue, green, red. Class probabilities: background and 2 classes.

    A picture whose top left pixel is red is refused; one whose top left pixel is blue has no region.
    """

    feature_dim, num_classes, source, weights_sha256 = 3, 2, "fake", "0" * 64

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.calls = []  # number of pictures in each call

    def detect(self, image_bgr):
        return self.detect_many([image_bgr])[0]

    def detect_many(self, images_bgr):
        self.calls.append(len(images_bgr))
        if self.stop_after is not None and sum(self.calls) > self.stop_after:
            raise KeyboardInterrupt
        return [self._regions(image) for image in images_bgr]

    def _regions(self, image):
        height, width = image.shape[:2]
        corner = image[0, 0].tolist()
        if corner == [0, 0, 255]:
            raise UserError("it is red in the corner")
        count = 0 if corner == [255, 0, 0] else 2
        half = width // 2
        boxes = np.array([[0, 0, half, height], [half, 0, width, height]], dtype=np.float32)[:count]
        features = np.stack([image[:, :half].mean((0, 1)), image[:, half:].mean((0, 1))]).astype(np.float32)[:count]
        probs = np.array([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4]], dtype=np.float32)[:count]
        kinds = probs[:, 1:]
        return Detected(width, height, boxes, features, probs, kinds.max(1), kinds.argmax(1))
