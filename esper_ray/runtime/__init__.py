"""One healthy growing network: its runtime, its snapshot, and the same host without growth."""
