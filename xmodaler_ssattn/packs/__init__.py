"""Region files: the store, its writer and checks, and the feature packs in circulation that become one (formats/)."""
