"""Tables that are published run by run.

- ``schemas``    the columns of every table; ``views``: SQL views of the tables
- ``snapshot``   one published state, read without Spark; ``records``: the runs in it; ``provenance``: what they read
- ``places``     what is wrong with a place that should be a warehouse; ``defaults``: what comes first of several
- ``warehouse``  writes tables and publishes them; ``parquet``: how Spark reads and writes them
- ``workspace``  private files of runs
- ``retention``  which runs can be removed, and which can be restored; ``leases``: which runs are active
- ``recovery``   a new pointer from the records of runs, where it is lost
"""
