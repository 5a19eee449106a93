//! Vectors to test with: the real ones beside the repository where they are there, else clustered ones of the same shape.

#![allow(dead_code, reason = "each of the two users needs its part")]

use std::{collections::HashSet, fs, io::Read, path::PathBuf};

use rand::{Rng, SeedableRng, rngs::StdRng};

pub const DIM: usize = 384;

/// Vectors, queries, and the names of both sides' nearest ones.
pub struct Data {
    pub vectors: Vec<Vec<f32>>,
    pub queries: Vec<Vec<f32>>,
    /// The keys of real data begin at 1 and the exact answers are given; else this is empty.
    pub truth: Vec<Vec<u64>>,
    /// (predicate, matching share, exact answers)
    pub filters: Vec<(String, f64, Vec<Vec<u64>>)>,
    pub is_real: bool,
}

impl Data {
    /// The first `n` vectors, for cosine. If there are fewer, the others are near those there are.
    pub fn load(n: usize) -> Self {
        let mut data = Self::real(n).unwrap_or_else(|| Self::generated(n.min(30_000), DIM, 1));
        let mut rng = StdRng::seed_from_u64(2);
        let n_real = data.vectors.len();
        for i in n_real..n {
            let near = |x: &f32| x + 0.04 * (rng.random::<f32>() + rng.random::<f32>() - 1.0);
            let vector = data.vectors[i % n_real].iter().map(near).collect();
            data.vectors.push(vector);
            data.truth.clear();
        }
        data
    }

    fn real(n: usize) -> Option<Self> {
        let folder = folder()?;
        let mut vectors = npy(&folder.join("packages_embeddings.f16.npy"))?;
        let queries = npy(&folder.join("queries.f16.npy"))?;
        let mut json = String::new();
        let file = fs::File::open(folder.join("truth.json.gz")).ok()?;
        flate2::read::GzDecoder::new(file).read_to_string(&mut json).ok()?;
        let json: serde_json::Value = serde_json::from_str(&json).ok()?;
        let lists = |value: &serde_json::Value| -> Option<Vec<Vec<u64>>> {
            let list = |one: &serde_json::Value| {
                one.as_array()?.iter().map(serde_json::Value::as_u64).collect::<Option<Vec<_>>>()
            };
            value.as_array()?.iter().map(list).collect()
        };
        let filter = |filter: &serde_json::Value| {
            Some((
                filter["where"].as_str()?.to_owned(),
                filter["fraction"].as_f64()?,
                lists(&filter["truth"])?,
            ))
        };
        let whole = n >= vectors.len();
        vectors.truncate(n);
        Some(Self {
            truth: if whole { lists(&json["unfiltered"])? } else { Vec::new() },
            filters: if whole {
                json["filters"].as_array()?.iter().map(filter).collect::<Option<_>>()?
            } else {
                Vec::new()
            },
            vectors,
            queries,
            is_real: true,
        })
    }

    /// Clusters of very different sizes around centres that lie around fewer centres; unit length.
    pub fn generated(n: usize, dim: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut noise = |base: &[f32], spread: f32| -> Vec<f32> {
            let v: Vec<f32> = base
                .iter()
                .map(|x| x + spread * (rng.random::<f32>() + rng.random::<f32>() - 1.0))
                .collect();
            let length = v.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-9);
            v.into_iter().map(|x| x / length).collect()
        };
        let root = vec![0.02; dim];
        let areas: Vec<Vec<f32>> = (0..20).map(|_| noise(&root, 0.2)).collect();
        let centres: Vec<Vec<f32>> = (0..600).map(|i| noise(&areas[i % 20], 0.08)).collect();
        let mut pick = StdRng::seed_from_u64(seed + 1);
        let mut point = || {
            let skewed = pick.random::<f32>().powi(2);
            noise(&centres[(skewed * 600.0) as usize], 0.06)
        };
        Self {
            vectors: (0..n).map(|_| point()).collect(),
            queries: (0..300).map(|_| point()).collect(),
            truth: Vec::new(),
            filters: Vec::new(),
            is_real: false,
        }
    }
}

pub fn folder() -> Option<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let names = ["../../shared/data", "../../../shared/data"];
    names.iter().map(|name| here.join(name)).find(|path| path.join("queries.f16.npy").exists())
}

/// A two-dimensional array of halves in C order.
fn npy(path: &PathBuf) -> Option<Vec<Vec<f32>>> {
    let bytes = fs::read(path).ok()?;
    let n_header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let values = bytes[10 + n_header..].chunks_exact(2);
    let values: Vec<f32> =
        values.map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
    Some(values.chunks_exact(DIM).map(<[f32]>::to_vec).collect())
}

/// The share of the `k` true keys that were found.
pub fn recall(found: &[u64], truth: &[u64], k: usize) -> f64 {
    let n = truth.len().min(k);
    let found: HashSet<u64> = found.iter().copied().collect();
    truth[..n].iter().filter(|key| found.contains(key)).count() as f64 / n.max(1) as f64
}
