"""Signals during a start: they end it at once, and the handlers before are restored."""

import os
import signal
import threading

import pytest

from esper_actors.cluster.interruption import interruptible
from esper_actors.training.stop_request import StopRequest


def send(number):
    os.kill(os.getpid(), number)
    threading.Event().wait(5)  # the handler runs here


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_ends_a_start_within_a_stop_request(number, code):
    with StopRequest() as stop:
        before = signal.getsignal(number)
        with pytest.raises(SystemExit) as raised, interruptible():
            send(number)
        assert raised.value.code == code
        assert signal.getsignal(number) == before
        assert not stop()


def test_ctrl_c_is_a_keyboard_interrupt_where_python_handles_it():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), interruptible():
            send(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_was_installed_inside_is_replaced_by_the_one_before():
    with StopRequest():
        before = signal.getsignal(signal.SIGTERM)
        with interruptible():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray does
        assert signal.getsignal(signal.SIGTERM) == before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_changes_no_handler():
    seen = []

    def enter():
        with interruptible():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
