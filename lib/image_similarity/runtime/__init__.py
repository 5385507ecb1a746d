"""Spark, as jobs and stages use it, and what takes its place for small collections.

- ``java``      which Java Spark runs on
- ``class_archive``  Spark's classes, prepared for a fast start; ``rehearsal``: the session that prepares them
- ``session``   how it starts, and what its errors mean
- ``environment``  variables of the environment, checked or set right
- ``tasks``     how work is cut into tasks, and how files reach them
- ``processes`` worker processes of a job that needs no Spark; ``watchdog``: ends a worker that hangs
- ``progress``  what is reported while Spark works
- ``garbage``   what workers need not look at again after each task
- ``devices``   which GPU is a task's
- ``shutdown``  signals, one-line errors, exit codes
"""
