//! The language through its facade: golden files, the grammar, print and parse, and texts that are no statements.

mod corpus;
mod fuzz;
mod golden;
mod grammar;
mod random;
mod round_trip;
