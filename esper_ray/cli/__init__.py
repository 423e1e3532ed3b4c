"""The command ``esper``."""
