"""The three ways in which a run ends early: the request is wrong, the work fails, somebody stops it."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

#: What somebody stops a process with.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class RequestError(Exception):
    """What was asked for cannot be done. Its text is one line: the key, the value and what is allowed."""


class RunFailure(Exception):  # noqa: N818  # a run's failure, as the records call it
    """A run cannot go on.

    Args:
        reason: one word for programs: ``diverged``, ``out_of_memory``, ``infeasible``, ``timeout``,
            ``crashed`` or ``error``.
        detail: one line for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP, as from a terminal that is closed, arrived.

    Attributes:
        result: the fields of the result that an interrupted run recorded, for whoever performs runs for others.

    Not a KeyboardInterrupt, which Lightning turns into ``sys.exit(1)``, and not an Exception, so that nobody who guards
    against failures takes it for one.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum
        self.result: dict[str, Any] | None = None


class _Signals:
    """What has arrived, and whether it has to wait."""

    arrived: int | None = None
    shields: int = 0


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within, the first of `SIGNALS` raises `Interrupted`; a second one ends the process on the spot.

    SIGHUP stays ignored where it was (nohup); a second one does nothing, since a closing terminal sends several.
    """

    def handle(signum: int, _: FrameType | None) -> None:
        if _Signals.arrived is not None:
            if signum == signal.SIGHUP:
                return
            os._exit(128 + signum)
        _Signals.arrived = signum
        if not _Signals.shields:
            raise Interrupted(signum)

    def unraisable(fault: Any) -> None:
        if not isinstance(fault.exc_value, Interrupted):  # which was lost there: `check_interrupted` raises it again
            hook(fault)

    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    before = {signum: signal.signal(signum, handle) for signum in SIGNALS if signum != signal.SIGHUP or not ignored}
    try:
        yield
    finally:
        _Signals.arrived = None
        sys.unraisablehook = hook
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Within, a signal waits: for records that must agree with each other. It is raised at the end."""
    waiting = _Signals.arrived is not None
    _Signals.shields += 1
    try:
        yield
    finally:
        _Signals.shields -= 1
    if _Signals.arrived is not None and not waiting and not _Signals.shields:
        raise Interrupted(_Signals.arrived)


def check_interrupted() -> None:
    """Raise `Interrupted` again where a signal arrived but its exception was lost in foreign code."""
    if _Signals.arrived is not None and not _Signals.shields:
        raise Interrupted(_Signals.arrived)


def masked(error: BaseException) -> Interrupted | None:
    """The interruption that foreign code, cleaning up after it, turned into an error of its own."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, Interrupted):
            return seen
        seen = seen.__context__
    return None
