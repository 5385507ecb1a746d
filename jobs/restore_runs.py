"""spark-submit and schedulers start this file. The job is `image_similarity.jobs.restore_runs`."""

from image_similarity.jobs.command_line import start

if __name__ == "__main__":
    start("restore_runs")
