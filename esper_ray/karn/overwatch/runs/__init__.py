"""The watched places: their index, the followed runs, their sections."""
