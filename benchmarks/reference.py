"""The peer beside us: plain `transformers` generation in one process, driven by JSON lines on stdin.

{"prompt": [ids], "new": n}  →  {"tokens": [ids], "first": seconds, "total": seconds}
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main() -> None:
    """Serve requests until stdin ends: `python -m benchmarks.reference FOLDER THREADS`."""
    import torch
    from transformers import LlamaForCausalLM
    from transformers.generation.streamers import BaseStreamer

    class Clock(BaseStreamer):  # type: ignore[misc]
        """Notes when each token came; the first call is the prompt."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, value: object) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    folder, threads = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(threads)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    _say({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        ids = torch.tensor([request["prompt"]])
        clock = Clock()
        began = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=request["new"],
                min_new_tokens=request["new"],
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
                streamer=clock,
            )
        ended = time.perf_counter()
        tokens = output[0, ids.shape[1] :].tolist()
        _say({"tokens": tokens, "first": clock.times[1] - began, "total": ended - began})


def _say(value: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
