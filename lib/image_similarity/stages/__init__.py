"""Spark: tables in, tables out. One module for each arrow of the data's path; no stage imports another."""
