"""The three ways in which work ends early: the request is wrong, the work fails, or a signal stops it."""

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

if not hasattr(signal, "SIGHUP"):
    sys.stderr.write(
        "error: mnist_sweep runs on Linux, on macOS and in WSL (Linux within Windows), not on Windows itself\n"
    )
    sys.exit(2)

#: The signals that stop a process in good order. Clusters warn with the last two before the time of a job is over.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


#: A password within a URL, and in the query of one.
_PASSWORD = re.compile(r"(://[^\s:/@'\"]*:)[^\s'\"]*(?=@)|\b((?:password|passwd|pwd|token|secret)=)[^\s&'\",;)]+", re.I)
MASK = "***"


def without_passwords(text: str) -> str:
    """The same text with ``***`` for each password in a URL: whatever is printed or kept goes through this."""
    return _PASSWORD.sub(lambda found: f"{found[1] or found[2]}{MASK}", text) if "=" in text or "@" in text else text


class RequestError(Exception):
    """The request cannot be carried out. The text is one line: the key, the value and what is allowed."""

    def __init__(self, text: str) -> None:
        super().__init__(" ".join(without_passwords(text).splitlines()))  # a value may have several


class RunFailure(Exception):  # noqa: N818  # "failure" is the word in results and in MLflow
    """A run cannot go on.

    The reason is one word: ``diverged``, ``out_of_memory``, ``infeasible``, ``timeout``, ``crashed`` or ``error``;
    the detail is one line for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, without_passwords(detail)
        super().__init__(f"{reason}: {self.detail}")


class Interrupted(BaseException):
    """A signal asked the process to stop. Raised by `check_interrupted`, never out of a signal handler.

    Not an Exception, so that code which guards against failures does not take it for one.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class _State:
    arrived: int | None = None


def signalled() -> int | None:
    """The signal that has arrived since `signals_as_flag` began; None where none has."""
    return _State.arrived


def check_interrupted() -> None:
    """Raise `Interrupted` if a signal has arrived."""
    if _State.arrived is not None:
        raise Interrupted(_State.arrived)


@contextlib.contextmanager
def signals_as_flag() -> Iterator[None]:
    """Within, the first of `SIGNALS` sets a flag, which `check_interrupted` turns into an exception.

    A second one ends the process at once. A second SIGHUP does not, since a closing terminal sends several. SIGHUP
    stays ignored where it was (nohup). Outside of the main thread, which alone may set handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(signum: int, _: FrameType | None) -> None:
        if _State.arrived is None:
            _State.arrived = signum
        elif signum != signal.SIGHUP:
            os._exit(128 + signum)

    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    before = {signum: signal.signal(signum, handle) for signum in SIGNALS if signum != signal.SIGHUP or not ignored}
    try:
        yield
    finally:
        _State.arrived = None
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Within, a library may take the `SIGNALS` for its own; afterwards they have the handlers that they had before."""
    here = threading.current_thread() is threading.main_thread()
    before = {signum: signal.getsignal(signum) for signum in SIGNALS} if here else {}
    try:
        yield
    finally:
        for signum, handler in before.items():
            if handler is not None:  # one that was not set from Python cannot be set again
                signal.signal(signum, handler)


def why(error: OSError) -> str:
    """What the system says of a file, with a remedy where it belongs to somebody else."""
    shared = "; in a folder that several people share, each needs: umask 002" * isinstance(error, PermissionError)
    return f"{error.strerror or error}{shared}"


def one_line(error: BaseException, limit: int = 300) -> str:
    """The type and the text of an exception in one line of at most `limit` characters."""
    return without_passwords(" ".join(f"{type(error).__name__}: {error}".split()))[:limit]
