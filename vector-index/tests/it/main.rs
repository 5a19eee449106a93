//! The crate through its facade: against brute force, on real data, under threads, and with damaged bytes.

mod concurrent;
mod data;
mod model;
mod recall;
mod snapshots;
