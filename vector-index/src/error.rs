//! What can go wrong in an index, one variant for each thing a caller can do something about.

/// An error of this crate. None of them leaves an index half changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The vector has another number of dimensions than the index.
    #[error("expected {expected} dimensions, not {found}")]
    DimMismatch {
        /// Dimensions of the index.
        expected: usize,
        /// Dimensions of the vector.
        found: usize,
    },

    /// A value is NaN, infinite, or too large for the element type.
    #[error("value at position {position} is not a finite number of the element type")]
    NotFinite {
        /// Position of the first such value, from 0.
        position: usize,
    },

    /// An option is outside its bounds.
    #[error("{option} = {value} is outside {least}..={most}")]
    BadOption {
        /// Name of the option.
        option: &'static str,
        /// What was asked for.
        value: usize,
        /// Least value allowed.
        least: usize,
        /// Greatest value allowed.
        most: usize,
    },

    /// The keys of a filter are not ascending.
    #[error("the keys of a filter are not in ascending order")]
    KeysNotAscending,

    /// Every slot number is in use.
    #[error("the index holds {slots} entries and can take no more")]
    Full {
        /// Slots in use.
        slots: usize,
    },

    /// The snapshot cannot be used: the index must be rebuilt from the rows.
    #[error("vector index snapshot is damaged: {what}")]
    Damaged {
        /// What was found.
        what: &'static str,
    },

    /// The snapshot was made by another version of this crate, or for another index.
    #[error("vector index snapshot is not of this index: {what}")]
    Foreign {
        /// What differs.
        what: &'static str,
    },

    /// Writing a snapshot failed.
    #[error("vector index snapshot could not be written")]
    Io(#[from] std::io::Error),
}

impl Error {
    /// Whether the way out is to build the index anew from the rows.
    #[must_use]
    pub fn is_rebuild_needed(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Foreign { .. })
    }
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
