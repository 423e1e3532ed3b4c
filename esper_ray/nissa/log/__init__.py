"""Event log and samples of a run: writing, validation, Parquet, SQL."""
