"""The training loop: windows from memory, AdamW, warmup and cosine, and the best weights on held-out text."""

from __future__ import annotations

import math
import subprocess
import time
from array import array
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from shards.training.model import Llama

LOG_EVERY_SECONDS = 5.0
LOWEST_RATE_SHARE = 0.01
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Options:
    """How to train. The schedule ends at `steps` (or `tokens`) or after `minutes`, whichever is first."""

    tokens: int = 600_000_000
    steps: int | None = None
    minutes: float | None = None
    batch: int = 64
    learning_rate: float = 3e-3
    warmup_steps: int = 150
    weight_decay: float = 0.1
    dropout: float = 0.05
    chat_share: float = 0.12
    eval_every: int = 250
    clip: float = 1.0
    seed: int = 0
    device: str = "cpu"
    compile: bool = False

    def total_steps(self, context: int) -> int:
        """Optimiser steps of a full run."""
        return self.steps if self.steps is not None else max(1, self.tokens // (self.batch * context))


@dataclass(frozen=True, slots=True)
class Stream:
    """Token ids in one row, and where a window may best start (empty: anywhere)."""

    ids: torch.Tensor
    starts: torch.Tensor

    @classmethod
    def of(cls, ids: array[int], starts: list[int], device: str) -> Stream:
        """Copy to the device."""
        return cls(torch.tensor(ids, dtype=torch.int32, device=device), torch.tensor(starts, device=device))


@dataclass(slots=True)
class Result:
    """What a run did; `best_*` describe the weights the model holds when `train` returns."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_loss: float = math.inf
    curve: list[dict[str, float]] = field(default_factory=list)


def train(
    model: Llama,
    source: Stream,
    chat: Stream,
    held_out: Stream,
    options: Options,
    report: Callable[[str], None],
    on_best: Callable[[], None],
) -> Result:
    """Train `model` in place and leave the weights with the lowest held-out loss in it.

    `on_best` is called, at most every half minute, when better weights have been found, so that a run
    that is cut short leaves something behind. Raises `FloatingPointError` when the loss diverges.
    """
    context = model.shape.context
    total = options.total_steps(context)
    generator = torch.Generator(device=options.device).manual_seed(options.seed)
    optimiser = _optimiser(model, options)
    sample = _batch(source, chat, options, context, generator, 0)
    step_loss = _loss_function(model, sample, options, report)
    result = Result()
    best: dict[str, torch.Tensor] = {}
    started = logged = saved = time.monotonic()
    logged_tokens, last_eval = 0, 0
    model.train()
    while True:
        elapsed = time.monotonic() - started
        progress = result.steps / total
        if options.minutes is not None:
            progress = max(progress, elapsed / (60 * options.minutes))
        done = progress >= 1
        if done or result.steps - last_eval >= options.eval_every:
            last_eval = result.steps
            loss = held_out_loss(model, held_out, options.device, options.batch)
            model.train()
            result.curve.append({"step": result.steps, "held_out_loss": round(loss, 4)})
            report(f"step {result.steps}: held-out loss {loss:.4f} nats/token")
            if loss < result.best_loss:
                result.best_loss, result.best_step = loss, result.steps
                best = {name: value.detach().clone() for name, value in model.state_dict().items()}
                if time.monotonic() - saved > 30:
                    on_best()
                    saved = time.monotonic()
        if done:
            break
        rate = options.learning_rate * min(1.0, (result.steps + 1) / options.warmup_steps) * _cosine(progress)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss_now = step_loss(*_batch(source, chat, options, context, generator, result.steps))
        loss_now.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        result.steps += 1
        result.tokens += options.batch * context
        if time.monotonic() - logged > LOG_EVERY_SECONDS:
            value = float(loss_now.detach())
            if not math.isfinite(value):
                raise FloatingPointError(f"the loss diverged at step {result.steps}")
            now = time.monotonic()
            speed = (result.tokens - logged_tokens) / (now - logged)
            report(
                f"step {result.steps}/{total} ({progress:.0%}) loss {value:.4f} rate {rate:.2e} "
                f"{speed:,.0f} tokens/s {now - started:.0f} s"
            )
            logged, logged_tokens = now, result.tokens
    result.seconds = time.monotonic() - started
    if not best:
        raise FloatingPointError("the held-out loss never was a number")
    model.load_state_dict(best)
    model.eval()
    return result


def held_out_loss(model: Llama, stream: Stream, device: str, batch: int) -> float:
    """Mean loss in nats per token over a whole stream, in windows of one context that do not overlap."""
    context = model.shape.context
    ids = stream.ids.to(torch.int64)
    count = len(ids) - 1
    if count < 1:
        raise ValueError("the held-out text is shorter than two tokens")
    windows = math.ceil(count / context)
    padding = windows * context - count
    inputs = F.pad(ids[:-1], (0, padding)).view(windows, context)
    targets = F.pad(ids[1:], (0, padding), value=IGNORED).view(windows, context)
    model.eval()
    total = 0.0
    with torch.no_grad(), _autocast(device):
        for first in range(0, windows, batch):
            logits = model(inputs[first : first + batch]).float().flatten(0, 1)
            wanted = targets[first : first + batch].flatten()
            total += float(F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum"))
    return total / count


def talks_at(step: int, options: Options) -> int:
    """How many windows of a step's batch hold conversations: `chat_share` of all, also in small batches."""
    wanted = options.batch * options.chat_share
    return int((step + 1) * wanted) - int(step * wanted)


def _batch(
    source: Stream, chat: Stream, options: Options, context: int, generator: torch.Generator, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    talks = talks_at(step, options) if len(chat.starts) else 0
    rows = [_windows(source, options.batch - talks, context, generator, anywhere=True)]
    if talks:
        rows.append(_windows(chat, talks, context, generator, anywhere=False))
    window = torch.cat(rows).to(torch.int64)
    return window[:, :-1].contiguous(), window[:, 1:].contiguous()


def _windows(stream: Stream, rows: int, context: int, generator: torch.Generator, *, anywhere: bool) -> torch.Tensor:
    device = stream.ids.device
    last = len(stream.ids) - context - 1
    if last < 0:
        raise ValueError("the corpus is shorter than one context window")
    if anywhere:
        starts = torch.randint(0, last + 1, (rows,), generator=generator, device=device)
    else:
        chosen = torch.randint(0, len(stream.starts), (rows,), generator=generator, device=device)
        starts = stream.starts[chosen].clamp(max=last)
    return stream.ids[starts[:, None] + torch.arange(context + 1, device=device)]


def _loss_function(
    model: Llama,
    sample: tuple[torch.Tensor, torch.Tensor],
    options: Options,
    report: Callable[[str], None],
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def plain(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with _autocast(options.device):
            logits = model(inputs)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    if not options.compile:
        return plain
    compiled: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = torch.compile(plain)
    started = time.monotonic()
    model.train()
    try:
        # One pass now: compiling is not training time, and a machine without a compiler is noticed.
        compiled(*sample).backward()  # type: ignore[no-untyped-call]
    except (
        RuntimeError,
        OSError,
        subprocess.CalledProcessError,
    ) as error:  # what torch raises when its back end cannot compile
        report(f"compiling failed, going on without: {str(error).splitlines()[0]}")
        model.zero_grad(set_to_none=True)
        return plain
    model.zero_grad(set_to_none=True)
    report(f"compiled in {time.monotonic() - started:.0f} s")
    return compiled


def _optimiser(model: Llama, options: Options) -> torch.optim.AdamW:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    on_cuda = options.device.startswith("cuda")
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.95), fused=on_cuda)


def _cosine(progress: float) -> float:
    return LOWEST_RATE_SHARE + (1 - LOWEST_RATE_SHARE) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _autocast(device: str) -> AbstractContextManager[object]:
    return torch.autocast(torch.device(device).type, torch.bfloat16)
