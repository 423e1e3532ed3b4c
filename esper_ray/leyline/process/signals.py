"""Signals that ask a program to stop, and a terminal that was closed."""

import os
import signal
import stat

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OUTPUTS = (1, 2)
"""Descriptors of standard output and standard error."""


def received_signals() -> tuple[signal.Signals, ...]:
    """The signals that request a stop: an ignored SIGHUP does not."""
    hangup_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(number for number in SIGNALS if number != signal.SIGHUP or not hangup_ignored)


def leave_closed_terminal() -> None:
    """Send further output nowhere if its terminal has been closed, where writing is an error."""
    for descriptor in OUTPUTS:
        try:
            is_closed = stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor)
        except OSError:
            continue  # there is no such output
        if is_closed:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
