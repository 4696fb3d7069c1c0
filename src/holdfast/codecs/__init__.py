"""How the bytes of a chunk are encoded in a pack."""
