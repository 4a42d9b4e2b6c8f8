"""Running a solver so that Ctrl-C stops it and still returns what it has."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_POLL_S = 0.1


class Cancellation:
    """What the thread that waits and the callbacks of the solver tell each other.

    Attributes
    ----------
    requested : bool
        The solver should stop at its next callback.
    keyboard : bool
        Ctrl-C was the reason.
    error : BaseException or None
        An exception of the solver or of a callback of ours, raised again when the solver has stopped.
    """

    __slots__ = ("error", "keyboard", "requested")

    def __init__(self) -> None:
        self.requested = False
        self.keyboard = False
        self.error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        """Stop because of an exception; a Ctrl-C is a request to stop, no failure."""
        self.requested = True
        if isinstance(error, KeyboardInterrupt):
            self.keyboard = True
        else:
            self.error = self.error or error


class KeptHandler:
    """Keeps Python's handler of Ctrl-C in place while a solver that installs its own one runs.

    Such a solver would take Ctrl-C for itself; and where two of them run in two threads, each restores what
    it found, so that the handler of a solver that has ended can stay and end the process at the next Ctrl-C.
    `signal.signal` would do, but only in the main thread; its C counterpart works in all.
    """

    _lock = threading.Lock()
    _running = 0
    _handler: int | None = None

    def __enter__(self) -> Self:
        with KeptHandler._lock:
            if KeptHandler._running == 0:
                KeptHandler._handler = _get_handler(signal.SIGINT)
            KeptHandler._running += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with KeptHandler._lock:
            KeptHandler._running -= 1
            _set_handler(signal.SIGINT, KeptHandler._handler)  # also that it does not restart system calls

    @staticmethod
    def reinstate() -> None:
        """Put Python's handler back, from a callback of the solver, for instance."""
        if _get_handler(signal.SIGINT) != KeptHandler._handler:
            _set_handler(signal.SIGINT, KeptHandler._handler)


_get_handler = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int)(("PyOS_getsig", ctypes.pythonapi))
_set_handler = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(
    ("PyOS_setsig", ctypes.pythonapi)
)


def run_interruptible(
    run: Callable[[], object], cancellation: Cancellation, cancel: Callable[[], object] | None = None
) -> None:
    """Call `run`; Ctrl-C sets ``cancellation.requested`` and calls `cancel`, and `run` is waited for.

    Python delivers Ctrl-C to the main thread only, and only between bytecodes, so a solver that runs there
    would not see it for hours.  In the main thread `run` therefore goes to a worker; in any other thread,
    where no Ctrl-C arrives, it is called directly.

    Raises
    ------
    BaseException
        What `run` raised, and what a callback left in ``cancellation.error``.
    """
    if threading.current_thread() is not threading.main_thread():
        run()
    else:
        _run_in_worker(run, cancellation, cancel)
    if cancellation.error is not None:
        raise cancellation.error


def _run_in_worker(
    run: Callable[[], object], cancellation: Cancellation, cancel: Callable[[], object] | None
) -> None:
    done = threading.Event()  # not Thread.join: interrupted by Ctrl-C, it takes the thread for ended (3.11)

    def work() -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            cancellation.fail(error)
        finally:
            done.set()

    worker = threading.Thread(target=work, name="milpq-solver", daemon=True)
    try:
        worker.start()
    except RuntimeError as error:
        raise MemoryError("no room for another thread") from error
    while not done.is_set():
        try:
            done.wait(_POLL_S)
        except KeyboardInterrupt:
            cancellation.requested = True
            cancellation.keyboard = True
            if cancel is not None:
                cancel()
    worker.join()
