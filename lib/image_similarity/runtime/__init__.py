"""The Spark session and what a job needs around it: Java, the tasks, their progress, the devices, the shutdown."""
