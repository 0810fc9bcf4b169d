"""The systems that scripts read from and write to; each package is imported at its first use."""
