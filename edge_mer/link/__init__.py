"""The local socket between the process that infers and those that talk to the world."""
