"""A gateway's bookkeeping until it is killed: says on standard output what it has promised to whom."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from chain.vouchers import PaymentVoucher
from mesh.payment.accounts.store import AccountStore

PAYER = bytes(range(20))
STEP = 100


def main() -> None:
    path, seed = Path(sys.argv[1]), int(sys.argv[2])
    draw = random.Random(seed)
    with AccountStore(path, "g") as store:
        account = store.account(PAYER)
        if account is None:
            store.add_key(b"k" * 32, PAYER, b"r" * 32, issued=0, now=0, redeemed=0, most=1)
            account = store.account(PAYER)
        assert account is not None
        account.backing = 1 << 60
        say("start", account.signed, account.charged)
        for number in range(1_000_000):
            amount = account.signed + draw.randrange(1, 1000)
            store.put_voucher(PaymentVoucher(PAYER, bytes(32), amount), bytes(65))
            account.accept(amount)
            say("voucher", amount, 0)
            charge = account.open(f"{seed}-{number}")
            while account.take(charge, 0, STEP - charge.held) is not None and charge.held:
                store.write_charge(charge.id, PAYER, charge.written, begun=True, model="m", now=0)
                given = draw.randrange(0, charge.held + 1)
                account.use(charge, given)
                say("gave", given, charge.written)
            account.settle(charge, charge.used)
            store.settle_charge(charge.id, PAYER, charge.used, model="m", now=0)
            say("settled", charge.used, account.charged)


def say(what: str, one: int, two: int) -> None:
    sys.stdout.write(f"{what} {one} {two}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
