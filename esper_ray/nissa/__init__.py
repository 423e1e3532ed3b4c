"""Nissa: run directories, event log, state and metrics of a run. Training reads nothing from here."""
