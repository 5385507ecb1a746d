"""spark-submit and schedulers start this file. The job is `image_similarity.jobs.group_images`."""

from image_similarity.jobs.command_line import start

if __name__ == "__main__":
    start("group_images")
