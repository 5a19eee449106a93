//! The Debian package table, for tests and figures with the shape of real data.
//!
//! Lives here: finding the real file, parsing it, and generating a table of the same shape where it is missing, so that
//! what uses it never becomes empty.

use std::{fs::File, io::Read, path::PathBuf};

use anyhow::{Context, Result};
use flate2::read::GzDecoder;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// The columns, as `CREATE TABLE` takes them.
pub const COLUMNS: &str = "id int PRIMARY KEY, name text, section text, priority text, arch text, \
    version text, source text, installed_size int, size bigint, description text";
/// Rows of the generated table; the real one has 63,666.
const GENERATED_ROWS: i32 = 20_000;

/// The table as CSV with a header line.
pub fn csv() -> Result<String> {
    let Some(path) = file() else {
        println!("the package table is not there; one of the same shape is generated");
        return Ok(generated());
    };
    let mut text = String::new();
    let file = File::open(&path).with_context(|| path.display().to_string())?;
    GzDecoder::new(file).read_to_string(&mut text)?;
    Ok(text)
}

/// `CORTEX_PACKAGES`, or `shared/data/packages.csv.gz` beside the repository or above it.
fn file() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CORTEX_PACKAGES") {
        return Some(path.into());
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.ancestors().map(|dir| dir.join("shared/data/packages.csv.gz")).find(|path| path.exists())
}

fn generated() -> String {
    let mut random = StdRng::seed_from_u64(1);
    let mut text =
        "id,name,section,priority,arch,version,source,installed_size,size,description\n".to_owned();
    let sections =
        ["libs", "devel", "python", "admin", "doc", "games", "net", "perl", "utils", "x11"];
    for id in 1..=GENERATED_ROWS {
        let mut pick = |n: usize| random.random_range(0..n);
        let section = sections[pick(10) * pick(10) / 10];
        let (source, kib) = (pick(6_000) * pick(100) / 100, pick(90_000));
        let arch = if pick(3) == 0 { "all" } else { "amd64" };
        text += &format!(
            "{id},package-{id},{section},optional,{arch},{}.{}-1,source-{source},{kib},{},\"A \"\"{section}\"\" package, number {id}\"\n",
            pick(9),
            pick(20),
            kib as u64 * 300 + pick(300) as u64,
        );
    }
    text
}
