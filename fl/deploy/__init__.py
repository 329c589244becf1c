"""Runs across sites: clients on machines of their own, which an engine for such networks carries messages to."""
