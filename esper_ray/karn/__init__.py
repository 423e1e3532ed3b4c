"""Karn: what an operator looks at, on the console and in reports."""
