"""Work spread over threads, in order and with a bounded look-ahead.

Pillow and hashlib release the interpreter's lock, so threads are enough for pictures.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_threads(
    function: Callable[[T], R], items: Iterable[T], *, threads: int | None = None, ahead: int = 64
) -> Iterator[R]:
    """`map(function, items)` in order, with at most `ahead` results computed before they are asked for.

    `threads` is `available_cores()` unless given. Leaving the iteration early, or an error in
    `function`, waits for the calls in progress and drops the rest.
    """
    pool = ThreadPoolExecutor(threads or available_cores())
    try:
        remaining = iter(items)
        waiting: deque[Future[R]] = deque(
            pool.submit(function, item) for item in islice(remaining, max(1, ahead))
        )
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def available_cores() -> int:
    """Cores that this process may run on, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
