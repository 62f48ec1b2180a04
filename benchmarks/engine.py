"""The engine of one stage that has the whole model, beside `transformers` and llama.cpp, on the same threads.

    python -m benchmarks.engine MODEL_FOLDER [--dtype float32] [--threads 1 2] [--llama-cpp PROGRAM --gguf FILE]
                                [--smoke]

Every contestant is a process of its own, started once. Each round asks all of them in turn, in random order, for the
same greedy continuations, so that a change of the machine's speed hits all alike; figures are medians over rounds,
ratios medians of the ratios within a round. In float32 the tokens must be those of transformers. With several numbers
of threads everybody is there once for each, and compared with the others that have as many and with itself.

llama.cpp is not a dependency. To have it beside us, build its libraries (cmake -B build -DCMAKE_BUILD_TYPE=Release
-DGGML_NATIVE=ON -DLLAMA_CURL=OFF && cmake --build build --target llama), make a .gguf of the same weights with its
convert_hf_to_gguf.py (--outtype f32 or bf16), and link the driver:

    c++ -O2 -std=c++17 benchmarks/llama_cpp.cpp -I $L/include -I $L/ggml/include -L $L/build/bin -lllama -lggml \\
        -lggml-base -Wl,-rpath,$L/build/bin -o llama_cpp
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import SIZES, write_checkpoint
from benchmarks.report import machine, paired_ratio, print_report, spread


@dataclass(frozen=True, slots=True)
class Case:
    """How many sessions, with prompts of how many tokens, and how many new ones each."""

    sessions: int
    prompt: int
    new: int


CASES = (Case(1, 900, 9), Case(1, 128, 33), Case(8, 64, 33), Case(32, 32, 17))
SMOKE = (Case(1, 40, 4), Case(3, 10, 4))


@dataclass(slots=True, kw_only=True)
class Measured:
    """Whatever is asked, and what it answered: by case, a value per round."""

    name: str
    first: dict[Case, list[float]] = field(default_factory=dict)
    rate: dict[Case, list[float]] = field(default_factory=dict)
    tokens: dict[Case, list[Any]] = field(default_factory=dict)

    def note(self, case: Case, answer: dict[str, Any]) -> None:
        """Keep a round's answer."""
        self.first.setdefault(case, []).append(answer["first"])
        rate = answer["rate"] if "rate" in answer else case.sessions * (case.new - 1) / answer["decode"]
        self.rate.setdefault(case, []).append(rate)
        self.tokens.setdefault(case, []).append(answer.get("tokens"))


@dataclass(slots=True)
class Contestant(Measured):
    """A process that answers."""

    process: subprocess.Popen[str]
    threads: int
    plain: bool
    """It reads numbers, not JSON."""

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, case: Case, number: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        numbers = {"sessions": case.sessions, "prompt": case.prompt, "new": case.new, "round": number}
        self.process.stdin.write((" ".join(map(str, numbers.values())) if self.plain else json.dumps(numbers)) + "\n")
        self.process.stdin.flush()
        return self.hear()


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", help="a checkpoint (folder or GGUF), else a random model")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--llama-cpp", type=Path, help="the driver program built from benchmarks/llama_cpp.cpp")
    parser.add_argument("--gguf", type=Path, help="the same weights for llama.cpp")
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, one round: does it run?")
    options = parser.parse_args()
    if options.gguf is None and options.llama_cpp is not None and options.model and options.model.suffix == ".gguf":
        options.gguf = options.model
    if (options.llama_cpp is None) != (options.gguf is None):
        parser.error("--llama-cpp and --gguf go together")
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as scratch, ExitStack() as stack:
        size = SIZES["smoke" if options.smoke else "small"]
        folder = options.model or write_checkpoint(Path(scratch) / "model", size)
        sys.exit(0 if _run(options, folder, stack) else 1)


def _run(options: argparse.Namespace, folder: Path, stack: ExitStack) -> bool:
    cases, repeats = (SMOKE, 1) if options.smoke else (CASES, options.repeats)
    facts = machine()
    groups = [start_contestants(options, folder, stack, threads) for threads in sorted(set(options.threads))]
    everybody = [each for group in groups for each in group]
    generator = random.Random(0)
    for number in range(1, repeats + 1):
        for case in cases:
            for each in generator.sample(everybody, len(everybody)):
                each.note(case, each.ask(case, number))
    return _report(options, facts, cases, groups)


def start_contestants(options: argparse.Namespace, folder: Path, stack: ExitStack, threads: int) -> list[Contestant]:
    """Our engine, transformers, and llama.cpp where `options` names it: started, and asked once. `stack` ends them."""
    module = (sys.executable, "-m", "benchmarks.contestants")
    settings = (str(folder), options.dtype, str(threads))
    everybody = [_start(stack, name, threads, [*module, name, *settings]) for name in ("engine", "transformers")]
    if options.llama_cpp is not None:
        command = [str(options.llama_cpp), str(options.gguf), str(threads)]
        everybody.append(_start(stack, "llama.cpp", threads, command, plain=True))
    else:
        print("llama.cpp is not beside us: see `python -m benchmarks.engine --help`", file=sys.stderr)
    for each in everybody:
        each.hear()
        each.ask(Case(2, 16, 4), 0)  # whatever is done once is done
    return everybody


def _start(stack: ExitStack, name: str, threads: int, command: list[str], *, plain: bool = False) -> Contestant:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return Contestant(process, threads, plain, name=name)


def _report(
    options: argparse.Namespace,
    facts: dict[str, Any],
    cases: tuple[Case, ...],
    groups: list[list[Contestant]],
) -> bool:
    results: list[dict[str, Any]] = []
    rows: list[list[str]] = []
    same = True
    for case in cases:
        for group in groups:
            ours, truth = group[:2]
            equal = ours.tokens[case] == truth.tokens[case]
            same &= equal
            for each, base in zip(group, groups[0], strict=True):
                result = {
                    "sessions": case.sessions,
                    "prompt": case.prompt,
                    "name": each.name,
                    "threads": each.threads,
                    "tokens_per_second": spread(each.rate[case]),
                    "first_token_seconds": spread(each.first[case]),
                    "engine_rate_ratio": paired_ratio(ours.rate[case], each.rate[case]),
                    "engine_first_token_ratio": paired_ratio(ours.first[case], each.first[case]),
                    "rate_ratio_to_fewest_threads": paired_ratio(each.rate[case], base.rate[case]),
                }
                results.append(result)
                rate, first = result["tokens_per_second"], result["first_token_seconds"]
                rows.append(
                    [
                        f"{case.sessions} × {case.prompt} + {case.new}",
                        f"{each.name}, {each.threads}",
                        f"{rate['median']:.1f} ({rate['min']:.1f}–{rate['max']:.1f})",
                        f"{result['engine_rate_ratio']:.2f}",
                        f"{first['median'] * 1000:.0f}",
                        f"{result['engine_first_token_ratio']:.2f}",
                        f"{result['rate_ratio_to_fewest_threads']:.2f}" if group is not groups[0] else "",
                        ("yes" if equal else "no") if each is ours else "",
                    ]
                )
    report = {
        "title": f"engine alone, {options.model or 'random model'}, {options.dtype}",
        "method": f"{1 if options.smoke else options.repeats} interleaved rounds, greedy, medians of paired ratios",
        "machine": facts,
        "same_tokens_as_transformers": same,
        "results": results,
    }
    fewest = f"÷ {groups[0][0].threads} thread(s)"
    columns = [
        *("sessions × prompt + new", "who, threads", "tokens/s (min–max)", "engine ÷", "first ms", "engine ÷"),
        *(fewest, "same tokens"),
    ]
    print_report(report, columns, rows, options.json)
    return same or options.dtype != "float32"


if __name__ == "__main__":
    main()
