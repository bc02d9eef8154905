"""What this machine has and what it lacks: for all verbs, found out where CUDA may be touched."""
