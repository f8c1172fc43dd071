"""State in RocksDB: tables, committed offsets and the outbox, committed in one write."""
