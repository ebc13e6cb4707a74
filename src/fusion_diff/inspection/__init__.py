"""From paths to verdicts on paper: inspect many micrographs, record each as it is finished, write the report."""
