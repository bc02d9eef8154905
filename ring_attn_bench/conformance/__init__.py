"""What every backend is asked, and how its answers are judged: by the tests and by the probe."""
