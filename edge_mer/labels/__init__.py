"""What recordings are labelled with: manifests, label tracks, and every problem in them at once."""
