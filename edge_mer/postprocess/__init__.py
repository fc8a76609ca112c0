"""From raw outputs to estimates, and whether they may be given."""
