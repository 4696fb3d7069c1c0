"""The store anyone can trust: packs, indexes, commits, verified reads, retention."""
