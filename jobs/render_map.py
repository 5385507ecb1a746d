"""spark-submit and schedulers start this file. The job is `image_similarity.jobs.render_map`."""

from image_similarity.jobs.command_line import start

if __name__ == "__main__":
    start("render_map")
