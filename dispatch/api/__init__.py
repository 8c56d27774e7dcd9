"""HTTP: decode, call the engine, render."""
