"""How much a stranger's schema, expression or grammar may take (pure)."""

from __future__ import annotations

from shards.sandbox.limits import Limits

PROBE_SECONDS = 0.3
"""Of processor time, to build a form and go some way through it."""
PROBE_STEPS = 48
PROBE_STACK = 4 << 20
"""Bytes of stack in the child process: less than there is where it is built again."""
PROBE = Limits(2.0, 512 << 20, 4096, blame=False)
MASK_SECONDS = 0.25
"""To find which tokens may come next: sessions that share the pass wait for it. It takes some 0.03 ms, 2 at most."""

SLOW_SECONDS = 0.004
"""Of a form of which that took so long once, it is found beside the passes from then on."""

ENDING_SECONDS = 0.08
"""Of processor time, to find an end of a form: it takes some 4 ms. One that takes longer is not looked for again."""
ENDING_WAIT = 1.0
"""Beside `MASK_SECONDS`, where an end is looked for too, on a machine with other work."""

LEXER_FUEL = 200_000
STEP_FUEL = 60_000
STEP_ITEMS = 10_000
LEXER_STATES = 50_000
GRAMMAR_SIZE = 50_000
"""The library's own limits, which bound nearly everything (`llguidance.LLParserLimits`)."""
