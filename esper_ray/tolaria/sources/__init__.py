"""Data sources of the built-in tasks: one module with a loader each."""
