"""Pools of processes that an interrupt ends without tracebacks."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from multiprocessing import resource_tracker
from multiprocessing.pool import Pool


def process_pool(processes: int) -> Pool:
    """A pool of new processes; an interrupt ends the one that made it, and with it the others.

    Raises:
        KeyboardInterrupt: one came while they were started.
    """
    # A process that is interrupted, or left alone, while it starts ends with a traceback. So an
    # interrupt waits until all have started, and they inherit that it is not for them.
    interrupts: list[int] = []
    resource_tracker.ensure_running()  # its start would unblock the signal
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    main = threading.current_thread() is threading.main_thread()
    # Blocked here, the signal still reaches the handler through any other thread.
    handler = signal.signal(signal.SIGINT, lambda *_: interrupts.append(1)) if main else None
    try:
        pool = multiprocessing.get_context("spawn").Pool(processes)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if main:
            signal.signal(signal.SIGINT, handler)
    if interrupts:
        pool.terminate()
        raise KeyboardInterrupt
    return pool
