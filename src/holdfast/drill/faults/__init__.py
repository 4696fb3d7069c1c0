"""What can go wrong on purpose: `base.py` says what a fault is, one class for each."""
