"""The modes of rounds: who takes part, what is sent, and when the server steps; it imports every room but `run` and
`experiment`."""
