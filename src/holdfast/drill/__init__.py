"""Faults on purpose, and what they prove."""
