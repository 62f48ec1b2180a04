"""What every benchmark prints: medians with their spread, ratios from the same run, one JSON document, one table."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most of the repeats."""
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def paired_ratio(values: Sequence[float], reference: Sequence[float]) -> float:
    """Median of the ratios round by round: what drifts with the machine cancels out."""
    return round(statistics.median(v / r for v, r in zip(values, reference, strict=True)), 3)


def machine(*packages: str) -> dict[str, Any]:
    """What the figures were measured on; `packages` are those whose versions matter (torch and transformers)."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{package: version(package) for package in packages or ("torch", "transformers")},
    }


def print_report(
    report: dict[str, Any], columns: Sequence[str], rows: Sequence[Sequence[str]], path: Path | None
) -> None:
    """JSON on stdout (or to `path`), the table on stderr, so that a script can take one without the other."""
    text = json.dumps(report, indent=2)
    if path is None:
        sys.stdout.write(text + "\n")
    else:
        path.write_text(text + "\n")
    table = Table(*columns, title=report["title"], caption=report["method"])
    table.title_justify = table.caption_justify = "left"
    for row in rows:
        table.add_row(*row)
    console = Console(stderr=True)
    console = console if console.is_terminal else Console(stderr=True, width=120)
    console.print(table)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
