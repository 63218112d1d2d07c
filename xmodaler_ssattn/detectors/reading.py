"""Pictures decoded ahead of the detector: while it works on one, threads read the next ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from xmodaler_ssattn.detectors.pictures import read_picture
from xmodaler_ssattn.errors import UserError

READERS = 4  # threads; Pillow lets the others run while it decodes


class UnexpectedError(UserError):
    """Of one picture, an exception that nothing foresaw: the other pictures go on; ``error`` is what was raised."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(f"{path}: {type(error).__name__}: {error}")
        self.error = error


def as_user_error(error: Exception, path: Path) -> UserError:
    """The error of one picture, whatever it is, with type and text."""
    return error if isinstance(error, UserError) else UnexpectedError(path, error)


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
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            yield image_id, path, future.result() if error is None else as_user_error(error, path)
    finally:
        pool.shutdown(cancel_futures=True)
