"""State of a run, folded from its events: what every viewer and the metrics are projections of."""
