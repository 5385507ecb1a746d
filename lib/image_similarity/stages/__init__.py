"""Spark: tables in, tables out, one room per arrow of the data's path. No stage imports another."""
