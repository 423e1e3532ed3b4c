"""Simic: selection pressure. Rewards as a ledger, attribution, and the mathematics of PPO."""
