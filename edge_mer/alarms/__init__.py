"""Alarms: rules that watch predictions, and a board of what they raised."""
