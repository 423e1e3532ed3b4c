"""The process that a program runs in: signals, locks, credentials."""
