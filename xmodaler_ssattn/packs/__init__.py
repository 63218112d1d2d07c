"""Region files: the store, its writer and checks, and the conversion of published feature packs (formats/)."""
