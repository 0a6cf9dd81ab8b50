"""Whole trainings and pictures on a device that is not the CPU: what a GPU would refuse is found without one."""
