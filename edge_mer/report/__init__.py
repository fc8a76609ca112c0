"""One page that shows what a run gave: read, reduce to what a screen can show, draw, write."""
