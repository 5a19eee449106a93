//! Names that the system chooses, as Postgres chooses them: `t_pkey`, `t_a_b_key`, `t_a_fkey1`.

use super::Catalog;
use cortex_shard_api::Oid;

/// Bytes of a name at most.
pub const NAME_BYTES_MAX: usize = 63;

/// `name1_name2_label`, with the longer of the two names cut until it fits.
pub fn object_name(name1: &str, name2: Option<&str>, label: &str) -> String {
    let overhead = label.len() + 1 + usize::from(name2.is_some());
    let available = NAME_BYTES_MAX.saturating_sub(overhead);
    let (mut len1, mut len2) = (name1.len(), name2.map_or(0, str::len));
    while len1 + len2 > available {
        if len1 > len2 {
            len1 -= 1;
        } else {
            len2 -= 1;
        }
    }
    let name1 = cut(name1, len1);
    match name2 {
        Some(name2) => format!("{name1}_{}_{label}", cut(name2, len2)),
        None => format!("{name1}_{label}"),
    }
}

fn cut(name: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
    &name[..end.unwrap_or(0)]
}

/// Column names joined for an index's or a foreign key's name.
pub fn joined_columns<'a>(columns: impl Iterator<Item = &'a str>) -> String {
    let joined = columns.collect::<Vec<_>>().join("_");
    cut(&joined, NAME_BYTES_MAX).to_owned()
}

/// The first name nobody has: without a number, then with 1, 2, ...
pub fn choose(
    name1: &str,
    name2: Option<&str>,
    label: &str,
    taken: impl Fn(&str) -> bool,
) -> String {
    let name = object_name(name1, name2, label);
    if !taken(&name) {
        return name;
    }
    let mut number = 1u64;
    loop {
        let name = object_name(name1, name2, &format!("{label}{number}"));
        if !taken(&name) {
            return name;
        }
        number += 1;
    }
}

impl Catalog {
    /// A free relation name in a schema.
    pub fn choose_relation_name(
        &self,
        schema: Oid,
        name1: &str,
        name2: Option<&str>,
        label: &str,
    ) -> String {
        choose(name1, name2, label, |name| self.names.contains_key(&(schema, name.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbered_and_cut_as_in_postgres() {
        assert_eq!(choose("t", None, "pkey", |_| false), "t_pkey");
        assert_eq!(choose("t", Some("a_b"), "idx", |name| name == "t_a_b_idx"), "t_a_b_idx1");
        let long = "x".repeat(60);
        let name = object_name(&long, Some("column_name"), "key");
        assert_eq!(name.len(), 63);
        assert!(name.ends_with("_column_name_key"));
    }
}
