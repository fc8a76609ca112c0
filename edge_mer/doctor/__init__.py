"""What a machine has and lacks for edge-mer, and the command that mends each finding."""
