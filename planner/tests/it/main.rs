//! The planner as a whole, without sockets and disks: shards are maps in memory.

/// Shards in memory, and tables on them.
mod cluster;

/// SQL text to answers and plans.
mod statement;

/// Distributed plans give what one table in memory gives.
mod fragments;

/// Routes against every row.
mod routes;

/// Plans as EXPLAIN shows them, and the rules that made them.
mod golden;
