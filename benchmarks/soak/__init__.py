"""Long runs, measured: `make soak`."""
