"""The process that talks to the world: HTTP, metrics, and sinks on networks. It never touches a sensor."""
