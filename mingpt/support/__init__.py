"""What a command-line program needs around a model: flags, files, processes, figures."""
