"""Placement and routing simulated on 10 to 10,000 heterogeneous nodes with churn, beside two other rules.

    python -m benchmarks.placement [--nodes 10 100 1000 10000] [--minutes 30] [--seed 1001]
                                   [--json FILE] [--plots FOLDER] [--smoke]

Every rule gets the same nodes, which come and die at the same times (mean life 30 minutes, nobody says goodbye, a dead
node's record is believed for 30 s, a block takes 2 s to load). Bottleneck throughput is that of the slowest block,
in tokens per second and as a share of what the living nodes could push through every block if they were spread
perfectly. Then sessions are routed one after another over the swarm that each rule made: expected seconds per token
of exact routes beside those of routes taken at random, under the same true latencies, of which few are known.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.report import machine, print_report
from benchmarks.swarm_sim import N_BLOCKS, STEP_SECONDS, Ours, PetalsGreedy, Policy, Swarm, best_uniform
from chain.plots import svg_curves
from mesh.swarm.placement import choose_span
from mesh.swarm.rebalance import rebalance
from mesh.swarm.route import Hop, Latencies, RouteTable, route_seconds
from mesh.swarm.view import ProviderView, gaps
from shards.model.span import Span

TUNED_ON = range(1, 10)
"""The seeds with which our rule's thresholds were chosen: a comparison on them would flatter it."""
SEED = 1001
SEEDS = {10: 9, 100: 3}
LONG = 1000
SESSIONS = 100
WORLD_SECONDS = 0.15
"""Round trip across the square on which the nodes lie."""
KNOWN_SENDERS, KNOWN_EACH = 50, 8
UNKNOWN_SECONDS = 0.06


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.placement", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--minutes", type=float, default=30.0, help="simulated, after the swarm has been filled")
    parser.add_argument("--seed", type=int, default=SEED, help="the first; 1 to 9 are those that we tuned on")
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument("--plots", type=Path, help="folder for the plots (SVG)")
    parser.add_argument("--smoke", action="store_true", help="few nodes, a minute: does it run?")
    options = parser.parse_args()
    if options.smoke:
        options.nodes, options.minutes = [10, 60], 1.0
    facts = machine("numpy")
    runs = [
        _run(
            size,
            rule,
            options.minutes if size <= LONG else options.minutes / 3,
            range(options.seed, options.seed + (1 if options.smoke else SEEDS.get(size, 1))),
        )
        for size in options.nodes
        for rule in (_ours, _petals, best_uniform)
    ]
    report: dict[str, Any] = {
        "title": f"placement and routing, {N_BLOCKS} blocks, {options.minutes:g} simulated minutes of churn",
        "method": (
            "mean life 30 min; same nodes and deaths for every rule; throughput as a share of perfect spreading of the "
            "living nodes, mean over time (over 9 seeds at 10 nodes, 3 at 100; a third of the time above 1,000); "
            "decisions in CPU time; "
            "routes: median over sessions opened one after another"
        ),
        "machine": facts,
        "seed": options.seed,
        "tuned_on_these_seeds": options.seed in TUNED_ON,
        "results": [{key: value for key, value in run.items() if key != "series"} for run in runs],
    }
    print_report(report, list(COLUMNS), [_row(run) for run in runs], options.json)
    if options.plots is not None:
        _plot(runs, options.plots)
    sys.exit(0 if all(run["moves_that_opened_a_gap"] == 0 for run in runs if run["rule"] == Ours.name) else 1)


def _ours(size: int, seed: int) -> Policy:
    return Ours()


def _petals(size: int, seed: int) -> Policy:
    return PetalsGreedy()


def _run(size: int, rule: Callable[[int, int], Policy], minutes: float, seeds: range) -> dict[str, Any]:
    steps = max(1, round(minutes * 60 / STEP_SECONDS))
    swarms: list[Swarm] = []
    first: list[float] = []
    for seed in seeds:
        swarm = Swarm(rule(size, seed), size, random.Random(seed), random.Random(seed))
        swarm.fill()
        first.append(float(swarm.served.rates.min()))
        for _ in range(steps):
            swarm.step()
        swarms.append(swarm)
    shares = sorted(share for swarm in swarms for share in swarm.fractions)
    moves = sum(swarm.moves for swarm in swarms)
    routes = [found for swarm in swarms if (found := _routes(swarm)) is not None]
    result: dict[str, Any] = {
        "nodes": size,
        "rule": swarms[0].policy.name,
        "minutes": steps * STEP_SECONDS / 60,
        "seeds": len(swarms),
        "tokens_per_second_at_first": round(statistics.mean(first), 2),
        "tokens_per_second_mean": round(statistics.mean(rate for swarm in swarms for rate in swarm.bottlenecks), 2),
        "share_mean": round(statistics.mean(shares), 4),
        "share_lowest_tenth": round(shares[len(shares) // 10], 4),
        "time_with_a_gap": round(sum(swarm.gap_steps for swarm in swarms) / len(shares), 4),
        "moves": moves,
        "moves_per_node_and_hour": round(moves / size / (len(shares) * STEP_SECONDS / 3600), 3),
        "moves_that_opened_a_gap": sum(swarm.opened for swarm in swarms),
        "decision_ms": _milliseconds(sorted(taken for swarm in swarms for taken in swarm.decisions)),
        "routes": routes[0] if routes else None,
        "series": swarms[0].fractions,
    }
    if isinstance(swarms[0].policy, Ours):
        result["decision_from_records_ms"] = _milliseconds(sorted(_from_records(swarms[0])))
    print(f"{size} nodes, {result['rule']}: {result['share_mean']:.0%}, {moves} moves", file=sys.stderr)
    return result


def _from_records(swarm: Swarm, times: int = 9) -> list[float]:
    """What the whole decision takes of a node that has just read everybody's records."""
    views = swarm.views()
    serving = [view for view in views if view.serving]
    taken = []
    for _ in range(times):
        who = swarm.numbers.choice(serving)
        began = time.thread_time()
        rebalance(N_BLOCKS, views, who.peer)
        choose_span(N_BLOCKS, views, who.max_blocks, fill=True)
        taken.append((time.thread_time() - began) / 2)
    return taken


def _routes(swarm: Swarm) -> dict[str, Any] | None:
    """Open sessions on the swarm as it is; None where it has a gap."""
    views = [node.view for node in swarm.nodes.values() if node.view.serving]
    if gaps(N_BLOCKS, views):
        return None
    numbers = random.Random(SEED)
    places = {view.peer: (numbers.random(), numbers.random()) for view in views}
    client = (0.5, 0.5)

    def between(one: tuple[float, float], other: tuple[float, float]) -> float:
        return 0.001 + WORLD_SECONDS / 2 * math.dist(one, other)

    peers = [view.peer for view in views]
    senders = numbers.sample(peers, min(KNOWN_SENDERS, len(peers)))
    known = Latencies(
        default=UNKNOWN_SECONDS,
        to_first={peer: between(client, places[peer]) for peer in numbers.sample(peers, min(200, len(peers)))},
        between={
            (sender, peer): between(places[sender], places[peer])
            for sender in senders
            for peer in numbers.sample(peers, min(KNOWN_EACH, len(peers)))
            if peer != sender
        },
    )
    began = time.thread_time()
    table = RouteTable(N_BLOCKS, views, known)
    building = time.thread_time() - began
    taken: list[float] = []

    def exact(loads: dict[str, int]) -> tuple[Hop, ...]:
        began = time.thread_time()
        hops = table.choose(loads=loads)
        taken.append(time.thread_time() - began)
        return hops

    by_block = [[view for view in views if block in view.span] for block in range(N_BLOCKS)]

    def at_random(loads: dict[str, int]) -> tuple[Hop, ...]:
        hops: list[Hop] = []
        block = 0
        while block < N_BLOCKS:
            view = numbers.choice(by_block[block])
            hops.append(Hop(view.peer, Span(block, view.span.end)))
            block = view.span.end
        return tuple(hops)

    def seconds(choose: Callable[[dict[str, int]], tuple[Hop, ...]]) -> float:
        loads: dict[str, int] = {}
        sessions = []
        for _ in range(SESSIONS):
            hops = choose(loads)
            sessions.append(hops)
            for hop in hops:
                loads[hop.peer] = loads.get(hop.peer, 0) + 1
        return statistics.median(
            _true_seconds(hops, views_by_peer, loads, places, client, between) for hops in sessions
        )

    views_by_peer = {view.peer: view for view in views}
    result = {"exact_seconds": round(seconds(exact), 4), "random_seconds": round(seconds(at_random), 4)}
    return {**result, "decision_ms": _milliseconds(sorted(taken)), "table_ms": round(building * 1000, 2)}


def _true_seconds(
    hops: Sequence[Hop],
    views: dict[str, ProviderView],
    loads: dict[str, int],
    places: dict[str, tuple[float, float]],
    client: tuple[float, float],
    between: Callable[[tuple[float, float], tuple[float, float]], float],
) -> float:
    """Seconds a token once all sessions are open: every hand-over at its true latency, every stage at its load."""
    true = Latencies(
        to_first={hops[0].peer: between(client, places[hops[0].peer])},
        between={
            (one.peer, other.peer): between(places[one.peer], places[other.peer])
            for one, other in itertools.pairwise(hops)
        },
    )
    busy = [replace(views[hop.peer], load=loads[hop.peer] - 1) for hop in hops]
    return route_seconds(hops, busy, latencies=true)


def _milliseconds(ascending: Sequence[float]) -> dict[str, float]:
    if not ascending:
        return {"median": 0.0, "p99": 0.0}
    last = ascending[min(len(ascending) - 1, int(len(ascending) * 0.99))]
    return {"median": round(statistics.median(ascending) * 1000, 3), "p99": round(last * 1000, 3)}


COLUMNS = (
    "nodes",
    "rule",
    "tokens/s",
    "share (worst tenth)",
    "time with gap",
    "moves/node/h",
    "moves opening a gap",
    "decision ms (p99)",
    "route ms (p99)",
    "s/token exact | random",
)


def _row(run: dict[str, Any]) -> list[str]:
    routes = run["routes"]
    return [
        f"{run['nodes']:,}",
        run["rule"],
        f"{run['tokens_per_second_mean']:,.0f}",
        f"{run['share_mean']:.0%} ({run['share_lowest_tenth']:.0%})",
        f"{run['time_with_a_gap']:.1%}",
        f"{run['moves_per_node_and_hour']:.2f}",
        str(run["moves_that_opened_a_gap"]),
        f"{run['decision_ms']['median']:.2f} ({run['decision_ms']['p99']:.2f})",
        f"{routes['decision_ms']['median']:.2f} ({routes['decision_ms']['p99']:.2f})" if routes else "gap",
        f"{routes['exact_seconds']:.3f} | {routes['random_seconds']:.3f}" if routes else "gap",
    ]


def _plot(runs: Sequence[dict[str, Any]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rules = list(dict.fromkeys(run["rule"] for run in runs))
    by_size = {
        rule: [(math.log10(run["nodes"]), 100 * run["share_mean"]) for run in runs if run["rule"] == rule]
        for rule in rules
    }
    title = "Bottleneck throughput under churn, share of perfect spreading"
    text = svg_curves(title, "log10(nodes)", "% (mean over time)", by_size)
    (folder / "placement-sizes.svg").write_text(text)
    size = min((run["nodes"] for run in runs), key=lambda nodes: abs(nodes - 100))
    over_time = {
        run["rule"]: [((step + 1) * STEP_SECONDS / 60, 100 * share) for step, share in enumerate(run["series"])]
        for run in runs
        if run["nodes"] == size
    }
    text = svg_curves(f"{title}: {size} nodes", "minutes", "%", over_time)
    (folder / "placement-churn.svg").write_text(text)


if __name__ == "__main__":
    main()
