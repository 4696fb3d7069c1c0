"""Trainings of several ranks: who decides, what is agreed, and how one checkpoint becomes of all."""
