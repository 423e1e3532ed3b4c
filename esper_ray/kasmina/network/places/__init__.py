"""Places of slots: layouts of features, outputs that carry them, and the runs that find them."""
