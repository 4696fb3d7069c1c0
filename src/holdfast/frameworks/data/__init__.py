"""Data position, as all frameworks share it: passes, draws, streams, marks for data workers."""
