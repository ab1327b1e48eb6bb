"""Virtual-time cluster, trace readers, workload generators, reports."""
