"""A run as a page that needs no network: made of the ledger, the plan and the prices, written or served."""
