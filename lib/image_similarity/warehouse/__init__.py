"""Tables that are published run by run.

- ``schemas``    the columns of every table; ``views``: SQL views of them
- ``snapshot``   one published state, read without Spark; ``records``: its runs
- ``warehouse``  write tables and publish them; ``parquet``: how Spark reads and writes them
- ``workspace``  private files of runs
- ``retention``  which runs may go, and which can come back; ``leases``: which are at work
"""
