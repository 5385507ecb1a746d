"""spark-submit and schedulers start this file. The job is `image_similarity.jobs.tag_images`."""

from image_similarity.jobs.command_line import start

if __name__ == "__main__":
    start("tag_images")
