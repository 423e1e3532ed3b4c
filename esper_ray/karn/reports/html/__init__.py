"""Reports as single pages of HTML, without scripts and without requests."""
