"""The yardstick: what is timed, beside whom, and how.

One table of implementations (`implementations.TABLE`) feeds the tests, asv, ``fastconv bench`` and README.
"""
