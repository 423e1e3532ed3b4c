"""Tolaria: tasks and their data, epoch training, measurement, and the governor that restores broken hosts."""
