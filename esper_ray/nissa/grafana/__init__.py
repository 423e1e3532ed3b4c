"""Dashboard, alert rules and annotations for Grafana, and the queries to Prometheus."""
