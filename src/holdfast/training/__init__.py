"""What a training script talks to: the Checkpointer, its loops, saving and restoring."""
