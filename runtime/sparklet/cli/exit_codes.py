"""The exit codes of commands, and their meanings."""

ALL_WELL = 0
USAGE = 1
FAILURES = 2
INCOMPLETE = 3
INTERRUPTED = 130

EXIT_MEANINGS = {
    ALL_WELL: "all succeeded, or failed within what is tolerated",
    USAGE: "usage or set-up",
    FAILURES: "failures beyond tolerance",
    INCOMPLETE: "incomplete: still open, or cancelled",
    INTERRUPTED: "interrupted",
}
EXIT_CODES = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_MEANINGS.items()) + "."
