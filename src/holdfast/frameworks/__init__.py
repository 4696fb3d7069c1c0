"""Capture and load of training state, one framework per file or folder."""
