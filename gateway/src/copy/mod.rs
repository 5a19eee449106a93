//! COPY: data in text, CSV and binary form, in and out.
//!
//! The parsers take any cut of the stream and yield rows; the writers append to a buffer. Both are pure: no socket, no
//! session, no shard.

/// What a COPY statement says about its data, and the errors that name line and column.
pub mod format;

/// Cuts a stream into lines.
mod lines;

/// Tab-separated text with backslash escapes.
pub mod text;

/// Comma-separated values.
pub mod csv;

/// The binary format.
pub mod binary;

pub use format::{CopyColumn, CopyFormat, CopyOptions, CopyTarget, Header};

#[cfg(test)]
mod tests;
