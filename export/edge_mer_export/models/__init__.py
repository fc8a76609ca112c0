"""The model zoo: one file per architecture, and a registry (`zoo`) of models built from them."""
