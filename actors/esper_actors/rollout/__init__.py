"""Playing episodes without Ray: runner, recorder, snapshots, samples, replay."""
