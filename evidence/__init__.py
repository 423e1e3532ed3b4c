"""Evidence: trainings and comparisons whose figures stand in the documentation, and what makes them.

``python -m evidence`` does what is missing, in an order in which nothing waits for something later. Runs lie in
``build/evidence``; each is resumed where it stopped. Tables and pictures are written to ``docs/results/NAME``.
"""
