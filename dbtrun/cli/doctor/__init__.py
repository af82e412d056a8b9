"""`dbtrun doctor`: what stands between a user and a first run, each in a sentence with the way out.

It gathers facts with a bounded number of requests, and decides by pure functions what they mean.
"""
