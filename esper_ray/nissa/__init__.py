"""Nissa: run directories, the event log and pictures of a run. Nothing in training reads from here."""
