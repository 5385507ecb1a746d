"""spark-submit and schedulers start this file. The job is `image_similarity.jobs.find_neighbours`."""

from image_similarity.jobs.command_line import start

if __name__ == "__main__":
    start("find_neighbours")
