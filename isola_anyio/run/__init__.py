"""One run of a guest: queue, task, turns, frames, and the services that answer a guest's requests."""
