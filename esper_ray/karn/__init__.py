"""Karn: views of runs for operators, on the console and in reports."""
