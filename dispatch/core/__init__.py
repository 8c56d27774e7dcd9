"""The rules, pure and synchronous: fed facts, `core` says what to do, and never does it."""
