"""Spark, as jobs and stages use it.

- ``java``      which Java Spark runs on; ``class_archive``: its classes, loaded in advance; ``rehearsal``: what makes that
- ``session``   how it starts, and what its errors mean
- ``tasks``     how work is cut into tasks, and how files reach them
- ``progress``  what is reported while Spark works
- ``devices``   which GPU is a task's
- ``shutdown``  signals, one-line errors, exit codes
"""
