"""Work that goes on beside the requests: carrying the outbox to its destinations."""
