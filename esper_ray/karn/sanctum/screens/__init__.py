"""Screens of Sanctum: pure functions from a view and its controls to lines."""
