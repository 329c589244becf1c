"""A whole run: the command line, the options' checks, putting it together, and the loop over rounds; it imports every
room but `experiment`."""
