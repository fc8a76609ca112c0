"""What a prediction costs in edge-mer, and in what one would use without it; writes docs/benchmarks.md."""
