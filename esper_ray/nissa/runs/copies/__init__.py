"""Copies of runs in a storage: the storage, its lease, the copy, a mirror for viewers."""
