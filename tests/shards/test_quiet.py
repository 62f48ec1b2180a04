"""Libraries do not write to the terminal: neither progress bars nor warnings to their own users."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.shards.adapter_models import make_adapter_checkpoint

LOAD = """
import sys
from pathlib import Path
from shards.checkpoint.opening import open_checkpoint
from shards.model.loading import check_servable, load_stage
from shards.model.span import Span
folder = Path(sys.argv[1])
checkpoint = open_checkpoint(folder)
check_servable(folder, checkpoint.spec, Span(0, 5))
load_stage(checkpoint, Span(0, 5))
"""


def test_loading_a_stage_of_the_adapter_is_silent(tmp_path: Path):
    folder = make_adapter_checkpoint(tmp_path, "mixtral", bos_token_id=999)
    command = [sys.executable, "-W", "error::UserWarning", "-c", LOAD, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
