"""The embedded local stack."""
