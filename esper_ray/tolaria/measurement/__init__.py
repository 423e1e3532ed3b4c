"""Measurements of a network: validation pass, seed coalitions, single seeds, gradients."""
