"""Bugs put into the real code on purpose, to see that the simulation would find them."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import patch


@dataclass(frozen=True, slots=True)
class Edit:
    """In function `name` (dotted, from its module) the text `old` becomes `new`."""

    module: str
    name: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutation:
    """A bug. `hostile`: it only shows on lines that mistreat frames; `first`: the seed with which to begin to look."""

    what: str
    edits: tuple[Edit, ...]
    hostile: bool | None = None
    first: int = 0
    simulation: Literal["swarm", "placement", "paying"] = "swarm"


_STORE = "mesh.payment.credit.store"
_SESSIONS = "mesh.provider.stage.admission"
_CORE = "mesh.provider.stage.core"
_LINE = "mesh.payment.credit.line"
_BILLING = "mesh.gateway.billing"

_LEAVING = (
    Edit("mesh.swarm.rebalance", "may_leave", "return bool", "return True or bool"),
    Edit("mesh.swarm.rebalance", "rebalance", "return None\n    able", "pass\n    able"),
    Edit("mesh.provider.placement.rebalancer", "Rebalancer._drained", "return False", "pass"),
)

MUTATIONS = (
    Mutation(
        "a provider does not write vouchers down",
        (
            Edit(
                _STORE,
                "PaymentJournal.record_voucher",
                "with self._transaction",
                "if side == 'held':\n            return True\n        with self._transaction",
            ),
        ),
    ),
    Mutation(
        "a gateway does not write vouchers down",
        (
            Edit(
                _STORE,
                "PaymentJournal.record_voucher",
                "with self._transaction",
                "if side == 'issued':\n            return True\n        with self._transaction",
            ),
        ),
    ),
    Mutation(
        "a provider counts a voucher before it is written down",
        (
            Edit(
                "mesh.payment.credit.collector",
                "VoucherCollector._voucher",
                "        try:\n            await asyncio.to_thread(",
                "        customer.line.accept(epoch, message.units)\n        try:\n"
                "            await asyncio.to_thread(",
            ),
        ),
    ),
    Mutation(
        "a gateway signs for whatever is claimed",
        (
            Edit(
                "mesh.payment.credit.vouching", "VoucherLine.due", "counts.vouched, worth)", "counts.vouched, 1 << 60)"
            ),
        ),
    ),
    Mutation(
        "a provider works on without being paid",
        (Edit(_LINE, "CreditLine.has_room", "return self", "return True or self"),),
    ),
    Mutation(
        "a provider counts vouchers beyond the line",
        (Edit("mesh.payment.credit.cover", "Cover.update", "spare = guarantee - sum(", "spare = 10**30 - sum("),),
    ),
    Mutation(
        "a client takes tokens in any order",
        (Edit("mesh.client.ring_session", "RingSession.tokens", " and message.position == expected", ""),),
        hostile=True,
    ),
    Mutation(
        "a session that resumes has forgotten its last token",
        (
            Edit(
                "mesh.client.generation",
                "MeshGeneration._resumed_plan",
                "tuple(self._generated)",
                "tuple(self._generated[:-1])",
            ),
        ),
    ),
    Mutation(
        "a session that ends does not give its memory back",
        (Edit(_SESSIONS, "SessionTable.close", "self.pages_used -= found.pages", "pass"),),
    ),
    Mutation(
        "a session that fails stays in the table",
        (
            Edit(
                _CORE,
                "StageCore._free",
                "self.table.close(session.id, session.client)",
                "pass",
            ),
        ),
    ),
    Mutation(
        "sessions of a client that is gone are not freed",
        (
            Edit(_CORE, "StageCore.handle", "self._free(session)", "pass"),
            Edit(_SESSIONS, "SessionTable.idle", "return [", "return [] and ["),
        ),
        first=9,
    ),
    Mutation(
        "a session that ends keeps its pages",
        (Edit(_CORE, "StageCore._free", "self._engine.free(session.sequence)", "pass"),),
    ),
    Mutation(
        "the work of a session that failed counts as running for ever",
        (
            Edit(
                "mesh.provider.stage.credit",
                "StageCredit.close",
                "self._finish(session, units, ok=False)",
                "pass",
            ),
        ),
    ),
    Mutation(
        "who has once used up its credit gets no second chance",
        (
            Edit("mesh.payment.credit.customers", "load_line", "line.doubtful = line.claimed", "pass"),
            Edit("mesh.payment.credit.dunning", "Dunning.step", "if now >= self.pardoned_at and", "if False and"),
        ),
        first=124,
    ),
    Mutation(
        "a provider gives up when the directory does not answer",
        (Edit("mesh.provider.join", "_Provider._choose", "if round_ == CLAIM_ROUNDS - 1:", "if True:"),),
        first=72,
    ),
    Mutation(
        "providers leave blocks that nobody else serves",
        _LEAVING,
        first=8,
    ),
    Mutation(
        "nobody moves to close a gap",
        (Edit("mesh.swarm.rebalance", "rebalance", "return repair(n_blocks, providers).get(me)", "return None"),),
        first=14,
    ),
    Mutation(
        "an older record takes the place of a newer one",
        (Edit("mesh.discovery.books", "RecordBook.offer", "return record == known", "pass"),),
        first=8,
    ),
    Mutation(
        "a gateway acknowledges a voucher that it has not written down",
        (Edit(_BILLING, "Billing._accept", "await self.write(self.store.put_voucher, voucher, signature)", "pass"),),
        simulation="paying",
    ),
    Mutation(
        "a payer does not write down what it promises",
        (Edit("mesh.client.payer_store", "PayerStore.promise", "if value > self._amount_in(", "if False and ("),),
        simulation="paying",
    ),
    Mutation(
        "a payer pays two increments ahead",
        (
            Edit(
                "mesh.payment.accounts.promises",
                "PayerBooks.next_voucher",
                "spent + told.increment",
                "spent + 2 * told.increment",
            ),
        ),
        simulation="paying",
    ),
    Mutation(
        "a gateway hands out what it has not charged on disk",
        (Edit("mesh.gateway.bill", "AccountBill._pay", "await self._write(", "(lambda **_: None)("),),
        simulation="paying",
    ),
    Mutation(
        "providers leave blocks that nobody else serves, where many come and go",
        (
            *_LEAVING,
            Edit(
                "mesh.swarm.rebalance", "better_window", " or after[touched].min() < gain * before[touched].min()", ""
            ),
        ),
        simulation="placement",
        first=13,
    ),
    Mutation(
        "nobody moves to close a gap",
        (Edit("mesh.swarm.rebalance", "rebalance", "return repair(n_blocks, providers).get(me)", "return None"),),
        simulation="placement",
        first=9,
    ),
)


@contextmanager
def mutated(mutation: Mutation) -> Iterator[None]:
    """With the bug in the code."""
    with ExitStack() as stack:
        for edit in mutation.edits:
            owner: Any = importlib.import_module(edit.module)
            *path, name = edit.name.split(".")
            module = owner
            for part in path:
                owner = getattr(owner, part)
            changed = _changed(module, getattr(owner, name), edit)
            for holder in _holders(module, owner, name):
                stack.enter_context(patch.object(holder, name, changed))
        yield


def _holders(module: Any, owner: Any, name: str) -> list[Any]:
    """Where the function is known by its name: its class, or every module that imported it."""
    if owner is not module:
        return [owner]
    importers = map(importlib.import_module, ("mesh.provider.placement.rebalancer", "mesh.payment.credit.collector"))
    return [module, *(each for each in importers if getattr(each, name, None) is getattr(module, name))]


def _changed(module: Any, function: Callable[..., Any], edit: Edit) -> Callable[..., Any]:
    source = inspect.getsource(function)
    assert edit.old in source, f"{edit.name} has changed: {edit.old!r} is not in it"
    changed = "from __future__ import annotations\n" + textwrap.dedent(source.replace(edit.old, edit.new))
    found: dict[str, Any] = {}
    exec(compile(changed, f"<mutated {edit.name}>", "exec"), module.__dict__, found)
    return found[function.__name__]
