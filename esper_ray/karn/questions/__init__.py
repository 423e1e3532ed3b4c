"""Questions about a run that the state does not answer, as functions of its log."""
