"""One folder loaded by transformers and by us, whole and in two spans: are the logits the same, or who refuses?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
import transformers

from shards.checkpoint.opening import open_checkpoint
from shards.errors import ShardError
from shards.model.span import Span
from tests.shards.differential.families import VOCAB
from tests.shards.quiet import quiet
from tests.shards.stages import Pipeline

TOKENS = torch.randint(3, VOCAB - 20, (40,), generator=torch.Generator().manual_seed(1)).tolist()
"""More than any window of the families."""
FIRST = 27
"""So many tokens are fed at once, then the rest: what looks ahead gives itself away."""
TOLERANCE = 1e-3
"""Of the logits' own size, in float32."""


class Outcome(StrEnum):
    """What came of a folder."""

    EQUAL = "equal"
    REFUSED = "refused"
    NEITHER = "neither serves it"
    OURS_ALONE = "transformers does not serve it"
    WRONG = "WRONG"
    CRASHED = "CRASHED"

    @property
    def allowed(self) -> bool:
        """False where somebody would get a wrong answer or a traceback."""
        return self not in (Outcome.WRONG, Outcome.CRASHED)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it, and what was said about it."""

    outcome: Outcome
    said: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """Somebody does not serve the folder; `known` where that was said in an error on purpose."""

    said: str
    known: bool = True
    guessed: bool = False
    """Served all the same, with weights drawn at random for those that are not there."""


def compare(folder: Path) -> Result:
    """Load and run it both ways."""
    results = [ours(folder, whole=True), ours(folder, whole=False)]
    for result in results:
        if isinstance(result, Refused) and not result.known:
            return Result(Outcome.CRASHED, result.said)
    logits = [result for result in results if not isinstance(result, Refused)]
    refusals = [result for result in results if isinstance(result, Refused)]
    if not logits:
        said = refusals[0].said
        return Result(Outcome.NEITHER if isinstance(theirs(folder, TOKENS), Refused) else Outcome.REFUSED, said)
    expected = theirs(folder, TOKENS[: logits[0].shape[0]])
    if isinstance(expected, Refused):
        wrong = expected.guessed
        return Result(Outcome.WRONG if wrong else Outcome.OURS_ALONE, expected.said)
    for each in logits:
        difference = _difference(each, expected)
        if not difference <= TOLERANCE:
            return Result(Outcome.WRONG, f"logits differ by {difference:.2g} of their size")
    if refusals:
        return Result(Outcome.REFUSED, refusals[0].said)
    return Result(Outcome.EQUAL)


def ours(folder: Path, *, whole: bool) -> torch.Tensor | Refused:
    """Our logits [n, vocab] of `TOKENS`, or of as many as a session may hold, from one stage or from two."""
    try:
        with quiet():
            n_blocks = open_checkpoint(folder).spec.n_blocks
            route = [Span(0, n_blocks)] if whole or n_blocks == 1 else [Span(0, 1), Span(1, n_blocks)]
            pipeline = Pipeline(folder, route)
            tokens = TOKENS[: min(stage.longest for stage in pipeline.stages)]
            session = pipeline.session(len(TOKENS))
            parts = [pipeline.logits(session, part) for part in (tokens[:FIRST], tokens[FIRST:]) if part]
            return torch.cat(parts)
    except ShardError as error:
        return Refused(f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 (what else it raises is what is looked for)
        return Refused(f"{type(error).__name__}: {error}", known=False)


def theirs(folder: Path, tokens: Sequence[int]) -> torch.Tensor | Refused:
    """Logits [n, vocab] as transformers computes them."""
    try:
        with quiet(), torch.inference_mode():
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True, local_files_only=True, trust_remote_code=False
            )
            if info["missing_keys"] or info["mismatched_keys"]:
                return Refused(f"weights are missing: {info['missing_keys']}", guessed=True)
            result = model.eval()(torch.tensor([tokens]))
            return (result.logits if hasattr(result, "logits") else result[0])[0].float()
    except Exception as error:  # noqa: BLE001 (whatever it raises, it does not serve the folder)
        return Refused(f"{type(error).__name__}: {error}")


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Put another config.json there."""
    (folder / "config.json").write_text(json.dumps(config))


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    if not theirs.isfinite().all():  # what makes no sense need not make the same nonsense
        return 0.0
    return float((ours - theirs).norm() / theirs.norm().clamp_min(1e-6))
