"""Tamiyo: the policies that decide when, where, what and how to grow."""
