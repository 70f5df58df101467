"""Object stores: the payloads."""
