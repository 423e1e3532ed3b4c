"""Locks over state that all threads of a process share."""

from threading import RLock

GLOBAL_GENERATOR = RLock()
"""Held while torch's global generator of the CPU is drawn from or seeded; episodes and runs may use several threads."""
