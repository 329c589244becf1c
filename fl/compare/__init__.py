"""Runs side by side: by bytes, by rounds and by time on a link."""
