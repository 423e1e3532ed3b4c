"""SQL over the log of a run, in a process of its own."""
