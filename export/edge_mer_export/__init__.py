"""The workbench that turns trained models into bundles; needs PyTorch, but for `triton`."""
