"""The asv suites.

They time what `fastconv.bench.implementations.TABLE` holds, so that asv, the command line and the tests
speak of the same calls.
"""
