"""Any pictures segmented by any method, and what is written of each."""
