"""How published papers evaluated their models: whole recordings, looked at in both directions of time."""
