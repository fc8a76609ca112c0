"""Reads, writes and checks bundles."""
