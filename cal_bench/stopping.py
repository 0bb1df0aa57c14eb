"""When a command may be stopped: schedulers send SIGTERM and leave some seconds, which are enough to finish what is being answered."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def unbroken() -> Iterator[None]:
    """SIGTERM that comes meanwhile takes effect at the end; Ctrl-C, behind which a person waits, at once."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's own
        yield
        return
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if came:
        signal.raise_signal(signal.SIGTERM)
