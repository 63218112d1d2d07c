"""Results in the formats of other tools, see ``formats``."""
