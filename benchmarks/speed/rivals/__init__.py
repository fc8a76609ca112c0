"""Ways to a prediction, one file each family: all take the same step tensors and give the same outputs."""
