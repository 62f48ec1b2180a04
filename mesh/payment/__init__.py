"""Work becomes money: metering, receipts and vouchers, accounts, and the settlement of epochs."""
