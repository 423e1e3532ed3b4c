"""Overwatch, the web view of runs: a server that only reads what runs write."""
