"""From raw steps to the tensors that the encoders take."""
