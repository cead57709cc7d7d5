"""Where a run's figures go besides log.jsonl: one file a tracker."""
