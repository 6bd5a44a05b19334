"""What is installed, who answers, and what was decided."""
