"""Signals set a flag, which is looked at where the work can end."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from mnist_sweep.errors import (
    Interrupted,
    RequestError,
    check_interrupted,
    handlers_kept,
    one_line,
    signalled,
    signals_as_flag,
    without_passwords,
)
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _handlers_come_back() -> Iterator[None]:
    """A hang-up is not ignored, as it is in a process that nohup has started."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("signum", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGUSR1, 128 + signal.SIGUSR1),
        (signal.SIGUSR2, 128 + signal.SIGUSR2),
    ],
)
def test_a_signal_is_heard_where_somebody_looks(signum: signal.Signals, code: int) -> None:
    signal.signal(signum, lambda *_: pytest.fail("the handler of before"))
    with signals_as_flag():
        check_interrupted()
        signal.raise_signal(signum)
        signal.raise_signal(signal.SIGHUP)  # a terminal that closes hangs up more than once
        assert signalled() == signum
        with pytest.raises(Interrupted) as caught:
            check_interrupted()
    assert caught.value.exit_code == code
    assert signalled() is None
    with pytest.raises(pytest.fail.Exception):  # it has come back
        signal.raise_signal(signum)


@pytest.mark.fault(4)
def test_a_second_signal_ends_the_process_at_once() -> None:
    script = """if True:
        import signal
        from mnist_sweep.errors import signals_as_flag
        with signals_as_flag():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            print("never")
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


def test_what_is_ignored() -> None:
    """A shell has Ctrl-C ignored for a command in the background of a script, which is heard; nohup means it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with signals_as_flag():
        signal.raise_signal(signal.SIGHUP)
        assert signalled() is None
        signal.raise_signal(signal.SIGINT)
        assert signalled() == signal.SIGINT


def test_a_thread_changes_no_handler() -> None:
    before, within = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with signals_as_flag():
            within.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert within == [before]


def test_an_error_in_one_line() -> None:
    assert one_line(ValueError("two\n  lines")) == "ValueError: two lines"
    assert len(one_line(ValueError("x" * 999))) == 300


@pytest.mark.parametrize(
    "text", ["postgresql://me:{}@host/db", "tracking.uri=http://me:{}@h:5000/x", "mysql://h/db?user=me&password={}&x=1"]
)
def test_no_password_is_shown(text: str) -> None:
    for password in ("canary", "a:b/c", "p%40ss", "é"):
        error = RequestError(f"sweep.storage={text.format(password)}: cannot be opened")
        assert password not in str(error)
        assert str(error) == f"sweep.storage={text.format('***')}: cannot be opened"
    for harmless in (
        "models:/mnist_sweep@champion",
        "http://127.0.0.1:5000",
        "experiment@a=b",
        "sqlite:///x.db?timeout=1",
    ):
        assert without_passwords(harmless) == harmless


def test_a_system_without_hang_ups_is_told_in_one_line() -> None:
    code = "import signal; del signal.SIGHUP; import mnist_sweep"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "Linux, on macOS and in WSL" in done.stderr


def test_a_library_that_takes_the_signals_for_its_own_gives_them_back() -> None:
    with signals_as_flag():
        with handlers_kept():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
        assert signalled() == signal.SIGTERM
