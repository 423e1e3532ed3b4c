"""From records to metrics: reducer, publisher, exporter, anomalies."""
