"""Many runs: on a machine's GPUs and on Slurm."""
