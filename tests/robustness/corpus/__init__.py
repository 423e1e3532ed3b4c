"""Generated corpus of damaged inputs, in groups; each group is an endless seeded stream of cases."""
