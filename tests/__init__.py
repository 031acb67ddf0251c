import os

# Before torch is imported, here and in all that a test starts: threads of several tests at once wait for each other's.
os.environ.setdefault("OMP_NUM_THREADS", "1")
