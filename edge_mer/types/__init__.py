"""What flows between the rooms, and the schemas that they share."""
