"""Groups of the corpus; each has ``INPUTS`` and an endless stream ``cases``."""
