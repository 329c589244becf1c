"""Codecs of vectors of which only the part inside a mask travels, and the payload of a mask."""
