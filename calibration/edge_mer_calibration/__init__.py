"""The workbench that makes small candidates and says what they cost; needs onnx."""
