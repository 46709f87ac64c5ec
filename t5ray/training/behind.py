"""Work that a run need not wait for, one piece at a time, in a thread. What goes wrong comes out at the next wait."""

from collections.abc import Callable
from threading import Thread


class Behind:
    """Does work behind the back of who asked for it."""

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], object]) -> None:
        """Wait for what was started before, then start this.

        Raises:
            Exception: what the piece before raised.
        """
        self.wait()
        self._thread = Thread(target=self._do, args=(work,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is under way.

        Raises:
            Exception: what it raised, once.
        """
        if self._thread is not None:
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error

    def _do(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 (raised again by who waits)
            self._error = exc
