"""What has been computed and where it lies: content keys, shards, published outs, caches."""
