//! Roots, powers and logarithms with the result scales of Postgres.
