"""The event log of a run and its samples: writing, checking, Parquet, SQL."""
