"""What must hold of the money at every moment, seen from outside: every message, every write, every unit of work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from mesh.payment.credit.customers import Bill
from mesh.payment.credit.line import CreditLine, Pair
from mesh.payment.credit.units import W_GENERATED, SessionMeter
from mesh.payment.credit.vouching import VoucherLine
from mesh.transport.port import PeerId
from mesh.wire.frame import Frame
from mesh.wire.messages import CONTROL_PROTOCOL, MAX_DRAFTS, OpenSession, decode
from mesh.wire.paying import Receipt, Voucher
from shards.engine.step import StepOutput
from tests.mesh.payment.money import MODEL_ID
from tests.simulation.hosts import GatewayHost, ProviderHost

_OPEN, _VOUCHER, _RECEIPT = b"\xa1t\xa4open", b"\xa1t\xa7voucher", b"\xa1t\xa7receipt"


class Ledger:
    """Keeps count beside the books of gateways and providers, and compares."""

    def __init__(self, n_blocks: int, credit_tokens: int, broken: Callable[[str], None]) -> None:
        self.n_blocks = n_blocks
        self.credit = credit_tokens * n_blocks
        """Units: no provider gives more credit than for the whole model."""
        self.checks: Counter[str] = Counter()
        self._broken = broken
        self._providers: dict[str, ProviderHost] = {}
        self._gateways: dict[str, GatewayHost] = {}
        self._names: dict[PeerId, str] = {}
        self._meters: dict[tuple[bytes, str], tuple[Pair, SessionMeter, int]] = {}
        self.done: Counter[Pair] = Counter()
        """Units of work that a provider's engine has really done for a gateway, each position of a session once."""
        self._sessions: Counter[Pair] = Counter()
        self._pardons: Counter[Pair] = Counter()
        self._accepted: dict[tuple[Pair, int], int] = {}
        """Highest voucher that a provider ever counted."""
        self._promised: dict[tuple[Pair, int], int] = {}
        """Highest voucher that a gateway ever sent."""
        self.epochs = 1

    def know(self, host: ProviderHost | GatewayHost) -> None:
        self._names[host.peer] = host.name
        if isinstance(host, ProviderHost):
            self._providers[host.name] = host
        else:
            self._gateways[host.name] = host

    # --- what is seen ---

    def sent(self, sender: PeerId, receiver: PeerId, protocol: str, frame: Frame) -> None:
        """A message leaves its sender."""
        if protocol != CONTROL_PROTOCOL:
            return
        header = frame.header
        if _VOUCHER not in header and _RECEIPT not in header and _OPEN not in header:
            return
        match decode(frame):
            case OpenSession() as message:
                pair = self._pair(sender, receiver)
                if (message.session, receiver) not in self._meters:
                    self._sessions[pair] += 1
                    meter = SessionMeter(message.prompt_tokens, message.fed_tokens)
                    self._meters[message.session, receiver] = pair, meter, message.end - message.start
            case Voucher(epoch=epoch, units=units):
                pair = self._pair(sender, receiver)
                if pair.gateway not in self._gateways:
                    return  # a provider shows which ones it holds, where its gateway's books are older
                self.checks["voucher written before it is sent"] += 1
                if self._written(pair, "issued", epoch)[0] < units:
                    self._broken(f"{pair.gateway} sends a voucher for {units} units that is not written down")
                self._promised[pair, epoch] = max(units, self._promised.get((pair, epoch), 0))
            case Receipt(epoch=epoch, units=units):
                pair = self._pair(receiver, sender)
                self.checks["receipt written before it is sent"] += 1
                if self._written(pair, "held", epoch)[1] < units:
                    self._broken(f"{pair.provider} sends a receipt for {units} units that is not written down")
            case _:
                pass

    def worked(self, host: ProviderHost, outcomes: Sequence[StepOutput]) -> None:
        """A provider's engine has computed this."""
        for outcome in outcomes:
            known = self._meters.get((outcome.sequence.session, host.peer))
            if known is None or outcome.error is not None:
                continue
            pair, meter, blocks = known
            if not meter.processed:
                meter.cached = outcome.start
            self.done[pair] += blocks * meter.advance(outcome.start + outcome.count)

    @contextmanager
    def probes(self) -> Iterator[None]:
        """See every voucher at the moment at which it begins to count."""
        accept, sign, begin, pardon = CreditLine.accept, VoucherLine.sign, Bill.begin, CreditLine.pardon

        def accepting(line: CreditLine, epoch: int, units: int) -> None:
            self.checks["voucher written before it counts"] += 1
            if self._written(line.pair, "held", epoch)[0] < units:
                self._broken(f"{line.pair.provider} counts a voucher for {units} units that is not written down")
            accept(line, epoch, units)
            key = line.pair, epoch
            self._accepted[key] = max(units, self._accepted.get(key, 0))

        def signing(line: VoucherLine, epoch: int, units: int, prices: Mapping[int, int]) -> None:
            self.checks["no more is signed than was received"] += 1
            if units < line.epochs[epoch].vouched:
                self._broken(f"{line.pair.gateway} signs for less than before")
            sign(line, epoch, units, prices)
            if line.signed > line.verified:
                self._broken(f"{line.pair.gateway} signs for {line.signed} units and has received {line.verified}")

        def beginning(bill: Bill, processed: int) -> int:
            line, is_large = bill.customer.line, bill.customer.large is bill
            units: int = begin(bill, processed)
            self.checks["no more is at risk than the credit, and one prompt that is larger"] += 1
            bound = line.credit
            if is_large or bill.customer.large is bill:
                bound += bill.blocks * bill.meter.tokens
            if units and line.unpaid + line.running > bound:
                self._broken(
                    f"{line.pair.provider} risks {line.unpaid + line.running} units with a credit of {line.credit}"
                )
            return units

        def pardoning(line: CreditLine) -> None:
            pardon(line)
            self._pardons[line.pair] += 1

        with ExitStack() as stack:
            for owner, name, probe in (
                (CreditLine, "accept", accepting),
                (VoucherLine, "sign", signing),
                (Bill, "begin", beginning),
                (CreditLine, "pardon", pardoning),
            ):
                stack.enter_context(patch.object(owner, name, probe))
            yield

    # --- what must be ---

    def check(self) -> None:
        """Compare the journals of both sides, and both with the work: may be asked at any moment."""
        issued: Counter[Pair] = Counter()
        promised: dict[tuple[Pair, int], int] = {}
        for gateway in self._gateways.values():
            for slot in gateway.journal.slots("issued"):
                issued[slot.pair] += slot.voucher_units
                promised[slot.pair, slot.epoch] = slot.voucher_units
                self.checks["every voucher rests on a receipt"] += 1
                if slot.voucher_units > slot.receipt_units:
                    self._broken(f"{slot.pair} epoch {slot.epoch}: a voucher over {slot.voucher_units} without receipt")
        for key, units in self._promised.items():
            self.checks["no voucher is lost"] += 1
            if promised.get(key, 0) < units:
                self._broken(f"{key}: the gateway has forgotten a promise of {units} units")
        held: dict[tuple[Pair, int], int] = {}
        for provider in self._providers.values():
            for slot in provider.journal.slots("held"):
                held[slot.pair, slot.epoch] = slot.voucher_units
        for key, units in held.items():
            self.checks["nobody holds more than was signed"] += 1
            if units > promised.get(key, 0):
                self._broken(f"{key}: the provider holds {units} units, the gateway signed {promised.get(key, 0)}")
        for key, units in self._accepted.items():
            self.checks["no voucher is lost"] += 1
            if held.get(key, 0) < units:
                self._broken(f"{key}: the provider counted {units} units and holds a voucher for {held.get(key, 0)}")
        for pair, units in issued.items():
            self.checks["nobody pays for work that was not done"] += 1
            if units > self.done[pair]:
                self._broken(f"{pair}: {units} units are promised, {self.done[pair]} were done")

    def check_losses(self) -> None:
        """At rest: what a provider worked for nothing is within what it agreed to risk."""
        held: Counter[Pair] = Counter()
        for provider in self._providers.values():
            for slot in provider.journal.slots("held"):
                held[slot.pair] += slot.voucher_units
        for pair, units in self.done.items():
            self.checks["nobody works for nothing"] += 1
            lives = self._providers[pair.provider].lives + self._gateways[pair.gateway].killed + self._pardons[pair]
            per_session = (2 + MAX_DRAFTS) * W_GENERATED * self.n_blocks  # wrong guesses are the provider's own cost
            most = lives * self.credit * (2 + self.epochs) + self._sessions[pair] * per_session
            if units - held[pair] > most:
                self._broken(f"{pair}: {units - held[pair]} units were done for nothing, {most} at most may be")

    def _pair(self, gateway: PeerId, provider: PeerId) -> Pair:
        return Pair(self._names[gateway], self._names[provider], MODEL_ID)

    def _written(self, pair: Pair, side: str, epoch: int) -> tuple[int, int]:
        """Units of the voucher and the receipt on disk."""
        host = self._gateways[pair.gateway] if side == "issued" else self._providers[pair.provider]
        slots = host.journal.slots(side, epoch=epoch, pair=pair)  # type: ignore[arg-type]
        return (slots[0].voucher_units, slots[0].receipt_units) if slots else (0, 0)
