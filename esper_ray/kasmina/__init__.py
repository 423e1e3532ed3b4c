"""Kasmina: the growing network. Mechanism only; nothing here decides *when*."""
