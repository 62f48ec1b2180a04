"""How much the tests try: a sample, or with `TESTS_PROFILE=long` everything (hours: before a release)."""

from __future__ import annotations

import os

LONG = os.environ.get("TESTS_PROFILE") == "long"
