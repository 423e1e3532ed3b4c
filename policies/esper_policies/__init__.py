"""Policies that steer growth: learned, hand-written, scripted and random."""
