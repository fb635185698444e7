"""bearerd beside other proxies, in one run on one machine: what `benches/compare` is made of."""
