"""Files: atomic writing, the codec of tensors and JSON, and checks of what was read."""
