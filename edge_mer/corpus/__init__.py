"""Plays many recordings, one after the other here or at once on a cluster, with the same numbers."""
