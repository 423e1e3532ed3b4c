"""Measurements of a growing network: held-out examples, seed coalitions, single seeds, gradients."""
