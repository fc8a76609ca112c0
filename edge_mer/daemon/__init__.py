"""The process that captures and infers for months, and what it does with those who ask."""
