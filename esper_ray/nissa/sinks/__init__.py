"""Other places to watch a run: services and files that know nothing of growing networks."""
