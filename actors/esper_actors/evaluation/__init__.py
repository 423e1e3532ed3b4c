"""Evaluation of policies on held-out seeds, and export of policy bundles."""
