"""Transforms of a stream: lazy steps over the values of one fetched slice, fused into one loop."""
