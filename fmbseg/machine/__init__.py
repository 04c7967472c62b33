"""This machine: device and precision, pools of processes, progress on a terminal."""
