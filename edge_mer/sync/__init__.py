"""From chunks in any order to complete steps, by capture time."""
