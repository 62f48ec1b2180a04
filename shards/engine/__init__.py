"""Running a stage: batching sessions' work into passes on one thread, and choosing tokens at the last stage."""
