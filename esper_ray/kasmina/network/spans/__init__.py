"""Spans of a host: two layers with nothing but per-channel operations between them, which can be widened."""
