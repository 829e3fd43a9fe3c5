"""Signals set a flag, which is looked at where the work can end."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from mnist_sweep.errors import Interrupted, check_interrupted, one_line, signalled, signals_as_flag
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _nobody_ignores_a_hangup() -> Iterator[None]:
    """As a process does that nohup has started, and those that it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_is_heard_where_somebody_looks(signum: int, code: int) -> None:
    with signals_as_flag():
        check_interrupted()
        os.kill(os.getpid(), signum)
        assert signalled() == signum
        with pytest.raises(Interrupted) as caught:
            check_interrupted()
    assert caught.value.exit_code == code
    assert signalled() is None


def test_the_handlers_that_were_there_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with signals_as_flag():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_a_closed_terminal_hangs_up_more_than_once() -> None:
    with signals_as_flag():
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        assert signalled() == signal.SIGHUP


def test_a_second_signal_ends_the_process_at_once() -> None:
    script = """if True:
        import os, signal
        from mnist_sweep.errors import signals_as_flag
        with signals_as_flag():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            print("never")
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


def test_an_interrupt_is_heard_where_a_shell_has_it_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a command in the background of a script
    try:
        with signals_as_flag():
            os.kill(os.getpid(), signal.SIGINT)
            assert signalled() == signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_hangup_that_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does it
    with signals_as_flag():
        os.kill(os.getpid(), signal.SIGHUP)
        assert signalled() is None


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
