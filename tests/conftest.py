"""What holds for every test: children of the tests can be interrupted."""

from __future__ import annotations

import signal

# A shell that starts the tests in the background has SIGINT ignored, and children inherit that: the tests that press
# Ctrl-C would wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
