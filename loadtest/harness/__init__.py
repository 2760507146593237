"""What `loadtest/run.py` is made of: a scenario becomes a plan, generators send it, a watch looks on, a judge decides."""
