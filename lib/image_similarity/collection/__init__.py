"""One published state of a warehouse, for programs and notebooks: read and searched without Spark."""
