"""Scores of classes by content -> what is in each image: the table ``tags``, by Spark or by the job's own process."""
