"""Rollouts without Ray: runner, recorder, snapshots, samples, replay."""
