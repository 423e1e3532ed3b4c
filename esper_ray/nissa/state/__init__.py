"""State of a run, folded from its events. Every viewer and the metrics are projections of it."""
