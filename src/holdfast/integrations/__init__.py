"""Other tools that follow a Checkpointer."""
