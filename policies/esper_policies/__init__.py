"""Policies: learned, heuristic, scripted and random."""
