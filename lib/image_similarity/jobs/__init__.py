"""One module for each job: its arguments, and what it does.

``command_line`` starts any of them; ``job`` holds the application and the runs that jobs share. The scripts that
spark-submit starts are in ``jobs/`` of the repository.
"""
