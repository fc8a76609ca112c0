"""Where chunks come from: one file per kind of sensor."""
