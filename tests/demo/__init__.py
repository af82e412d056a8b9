"""`make demo`: the whole way of three runs, on a real API server, in half a minute."""
