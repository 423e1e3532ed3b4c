"""The report of a run: its content, its sections, its verdict."""
