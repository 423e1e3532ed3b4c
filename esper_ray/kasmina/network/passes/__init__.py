"""Passes that compute several coalitions of seeds at once, and their verification."""
