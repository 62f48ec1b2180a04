"""The garbage collector does not hold up a gateway for as long as a look at everything that it has imported takes."""

from __future__ import annotations

import json
import subprocess
import sys

MEASURED = """
import gc, json, sys, time
from mesh.transport import _hivemind
_hivemind.load()
import mesh.client.client, mesh.gateway.app, mesh.gateway.paid
from mesh.gateway.serve import freeze_what_is_loaded

def pause():
    times = []
    for _ in range(3):
        began = time.process_time()
        gc.collect()
        times.append(time.process_time() - began)
    return min(times)

before = pause()
freeze_what_is_loaded()
json.dump({"before": before, "after": pause()}, sys.stdout)
"""


def test_a_collection_looks_at_little_once_a_gateway_has_started() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, timeout=90, check=True)
    found = json.loads(done.stdout)
    assert found["after"] < found["before"] / 10, found
