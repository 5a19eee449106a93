//! Shards over the network: a `ShardClient` that speaks gRPC, and the server that answers it.
