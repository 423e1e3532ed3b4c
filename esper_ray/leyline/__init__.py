"""Leyline: the contracts that every other part shares. Torch-free and Ray-free."""
