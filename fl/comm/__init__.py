"""How updates travel: payloads and their sections, encoders with error feedback, and the ledger of bytes; it imports
`models`, `clock`, `data` and what lies below."""
