"""The same functions as in modeling/ and losses/, faster; each says what it equals and where that holds."""
