"""The keys that open a sealed repository: given from outside, and what is recorded of them."""
