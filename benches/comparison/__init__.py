"""The parts of `benches/compare`, which compares bearerd with other proxies in one run on one machine."""
