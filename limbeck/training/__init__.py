"""The training step, the loop, and what keeps its work safe."""
