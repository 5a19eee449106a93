//! The crate's tests: recorded answers of a PostgreSQL, and that vectorized forms equal their kernels.

mod aggregates;
mod answers;
mod expression;
mod vectorized;
