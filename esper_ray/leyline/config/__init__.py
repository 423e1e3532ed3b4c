"""The configuration tree of a run and of a sweep, how it is read, and its limits."""
