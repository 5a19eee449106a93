//! What an index is made with: metric, element type, quantization and the parameters of the graph.

use crate::error::{Error, Result};

/// Most dimensions of a vector, as pgvector's type has it.
pub const DIM_MAX: usize = 16_000;

/// Bounds of `m` as in pgvector.
pub const M_MIN: usize = 2;
/// See [`M_MIN`].
pub const M_MAX: usize = 100;

/// Bounds of `ef_construction` as in pgvector.
pub const EF_CONSTRUCTION_MIN: usize = 4;
/// See [`EF_CONSTRUCTION_MIN`].
pub const EF_CONSTRUCTION_MAX: usize = 1_000;

/// Below so many entries a scan is faster than a traversal, and exact.
pub const EXACT_BELOW_DEFAULT: usize = 5_000;

/// Which distance orders the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Euclidean distance.
    L2,
    /// Negative inner product.
    InnerProduct,
    /// One minus the cosine of the angle.
    Cosine,
}

impl Metric {
    /// From what is compared inside (squared distance, negative product, negative cosine) to what a user sees.
    #[must_use]
    pub fn distance(self, rank: f64) -> f64 {
        match self {
            Self::L2 => rank.max(0.0).sqrt(),
            Self::InnerProduct => rank,
            Self::Cosine => 1.0 + rank,
        }
    }
}

/// How vectors are kept for the final order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// `vector`: four bytes per dimension.
    F32,
    /// `halfvec`: two bytes per dimension.
    F16,
}

/// What the traversal compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// The vectors themselves.
    None,
    /// Codes of one byte per dimension; the vectors order what was found.
    Int8,
}

/// Who finds the candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Our own graph.
    Graph,
    /// The `hnsw_rs` library.
    HnswRs,
}

/// How an index is made. Stored in its snapshots; another set of options is another index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Dimensions of every vector.
    pub dim: usize,
    /// Distance.
    pub metric: Metric,
    /// Element type.
    pub element: Element,
    /// What is compared on the way.
    pub quantization: Quantization,
    /// Who finds candidates.
    pub engine: Engine,
    /// Links of a node in upper layers; twice as many in the lowest.
    pub m: usize,
    /// Candidates looked at when a node is linked.
    pub ef_construction: usize,
}

impl Options {
    /// pgvector's defaults (`m = 16`, `ef_construction = 64`), our graph, int8 codes.
    #[must_use]
    pub fn new(dim: usize, metric: Metric) -> Self {
        Self {
            dim,
            metric,
            element: Element::F32,
            quantization: Quantization::Int8,
            engine: Engine::Graph,
            m: 16,
            ef_construction: 64,
        }
    }

    /// Checks every bound once, so that nobody has to again.
    pub fn validate(&self) -> Result<()> {
        within("dim", self.dim, 1, DIM_MAX)?;
        within("m", self.m, M_MIN, M_MAX)?;
        within(
            "ef_construction",
            self.ef_construction,
            EF_CONSTRUCTION_MIN.max(2 * self.m),
            EF_CONSTRUCTION_MAX,
        )
    }
}

fn within(option: &'static str, value: usize, least: usize, most: usize) -> Result<()> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(Error::BadOption { option, value, least, most })
    }
}
