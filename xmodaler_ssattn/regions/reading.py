"""Pictures decoded ahead of the detector: while it works on one, threads read the next ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.regions.pictures import read_picture

READERS = 4  # threads; Pillow lets the others run while it decodes


def decode_ahead(
    pictures: Iterable[tuple[int, Path]], ahead: int = READERS
) -> Iterator[tuple[int, Path, np.ndarray | UserError]]:
    """Each picture's (id, path, pixels), in the order given; a ``UserError`` in place of the pixels of a bad one.

    Args:
        pictures: (id, path).
        ahead: how many are decoded or being decoded at most, before they are asked for.
    """
    remaining = iter(pictures)
    pool = ThreadPoolExecutor(READERS, thread_name_prefix="pictures")
    try:
        waiting: deque[tuple[int, Path, Future]] = deque()
        while True:
            for image_id, path in islice(remaining, max(ahead, 1) - len(waiting)):
                waiting.append((image_id, path, pool.submit(read_picture, path)))
            if not waiting:
                return
            image_id, path, future = waiting.popleft()
            try:
                yield image_id, path, future.result()
            except UserError as error:
                yield image_id, path, error
    finally:
        pool.shutdown(cancel_futures=True)
