"""What holds for every test: children of the tests can be interrupted, and nothing is left of them."""

from __future__ import annotations

import signal
import sys

import pytest

from tests import leftovers

# A shell that starts the tests in the background has SIGINT ignored, and children inherit that: the tests that press
# Ctrl-C would wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    # Under pytest-xdist the workers run the tests; /proc is Linux's.
    controls_workers = getattr(config.option, "dist", "no") != "no" and not hasattr(config, "workerinput")
    if sys.platform == "linux" and not controls_workers and not config.option.collectonly:
        config.add_cleanup(leftovers.install(config))
