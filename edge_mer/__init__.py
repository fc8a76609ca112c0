"""edge-mer: fusion models of emotion and pain on small devices, with numbers that keep their meaning."""

__all__ = ["__version__"]

__version__ = "0.1.0"
