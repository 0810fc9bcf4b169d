"""The report of a run, made from the ledger, the plan and the prices: a page that is written to a file, or served."""
