"""Tolaria: tasks and data, epoch training, measurement, and the governor."""
