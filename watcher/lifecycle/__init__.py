"""The core: what to do next with a DbtRun, decided by pure functions over what is known of it.

No I/O, no clock, no randomness: everything comes in as a value, so that every case can be tried in a test.
"""
