"""Parts of other packages: how they are found, which options they take, and which ones a run uses."""
