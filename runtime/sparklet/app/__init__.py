"""What a user can do with Sparklet, for the command line and for Python programs alike; see ``app.stack``."""
