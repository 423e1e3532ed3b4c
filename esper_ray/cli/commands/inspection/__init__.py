"""Commands that inspect runs, while they train or later."""
