"""Catalogue of telemetry: events, metrics, alerts and panels, each declared once."""
