"""Work on credit: units of work counted, receipts for them, and the vouchers that a gateway signs for a provider."""
