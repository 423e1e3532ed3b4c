"""Metrics of a run: projection of its state, publisher, exporter, anomalies."""
