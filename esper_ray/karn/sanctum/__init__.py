"""Sanctum, the view of a run in a terminal. Screens are pure functions of the state; Textual only draws them."""
