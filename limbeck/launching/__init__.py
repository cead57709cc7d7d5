"""Jobs for a cluster: the script that a scheduler runs, and handing it over."""
