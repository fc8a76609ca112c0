"""Training of fusion models: first each backbone alone, then the fusion on what they give."""
