"""Exports of a growing network: checkpoints, a plain module, a text diagram."""
