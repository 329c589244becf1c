"""Smaller networks cut out of a network."""
