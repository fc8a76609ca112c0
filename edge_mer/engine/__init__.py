"""Runs one stage, in one file per backend."""
