"""The rules: pure values and functions. No I/O, no clock (`at` is an argument), no framework."""
