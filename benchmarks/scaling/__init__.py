"""What a bed and a corpus cost, what limits them, and the arithmetic for many."""
