"""Starts a training, watches it, and brings it back."""
