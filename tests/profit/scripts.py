"""What searches found under each of the old rules, cut down: the moves, and the runs that it took from which seed."""

from __future__ import annotations

from typing import Final

from tests.profit.search import Moves

SCRIPTS: Final[dict[str, Moves]] = {
    # seed 0, run 10
    "shared-deposit": (
        ("own_model", 95, 64, 43),
        ("toil", 29, 75, 33),
        ("round_trip", 33, 49, 14),
    ),
    # seed 0, run 3
    "blind-collector": (("season", 3, 57, 55),),
    # seed 0, run 82
    "late-vouchers-owe-nothing": (
        ("season", 62, 77, 91),
        ("become_gateway", 14, 42, 0),
    ),
    # seed 0, run 3
    "stake-behind-everything": (
        ("become_gateway", 24, 49, 62),
        ("season", 3, 57, 55),
    ),
    # seed 0, run 60
    "voidable-checkpoint": (
        ("season", 2, 91, 52),
        ("next_epoch", 26, 42, 55),
        ("void", 2, 8, 22),
    ),
    # seed 0, run 3
    "frozen-claims": (
        ("season", 73, 27, 29),
        ("freeze", 89, 67, 53),
    ),
    # seed 0, run 319
    "two-leaves-one-proof": (
        ("next_epoch", 36, 22, 40),
        ("next_epoch", 31, 30, 62),
        ("season", 66, 75, 23),
        ("prove", 94, 63, 85),
        ("answer", 33, 79, 3),
    ),
    # seed 0, run 8
    "overdraw-in-running-epoch": (
        ("toil", 60, 65, 39),
        ("wait", 29, 20, 71),
        ("round_trip", 77, 84, 26),
        ("overdraw", 82, 75, 51),
    ),
    # seed 0, run 3
    "fixed-bond-to-gateway": (
        ("become_gateway", 24, 49, 62),
        ("season", 3, 57, 55),
        ("answer", 23, 58, 14),
    ),
    # seed 0, run 1,346
    "next-epoch-receipt": (
        ("next_epoch", 50, 34, 25),
        ("own_model", 84, 93, 0),
        ("reprice", 39, 95, 76),
        ("feast", 56, 38, 76),
        ("next_epoch", 43, 40, 86),
        ("round_trip", 30, 48, 51),
    ),
    # seed 0, run 175
    "grace-after-restart": (
        ("toil", 11, 93, 88),
        ("restart", 48, 6, 50),
        ("claim_units", 14, 49, 55),
    ),
    # seed 0, run 289
    "old-signer-served": (
        ("season", 10, 58, 65),
        ("rotate", 37, 23, 94),
        ("next_epoch", 77, 75, 32),
        ("spree", 13, 65, 53),
    ),
    # seed 0, run 114
    "failed-answers-are-free": (
        ("round_trip", 50, 82, 92),
        ("promise", 46, 46, 9),
        ("ask", 4, 20, 55),
    ),
    # seed 0, run 62
    "tariff-of-the-request": (
        ("toil", 2, 4, 9),
        ("season", 37, 92, 63),
        ("creator_price", 6, 57, 72),
        ("wait", 36, 14, 49),
        ("round_trip", 58, 16, 53),
    ),
    # seed 0, run 1
    "emission-equals-burn": (("toil", 82, 38, 44),),
}
