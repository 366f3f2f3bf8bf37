"""What is trained: the networks, and one registry of them."""
