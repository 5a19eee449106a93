//! `cortexdb certs`: a cluster's authority, and certificates for its processes.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use anyhow::{Context, Result, bail};
use cortex_shard_rpc::tls::{new_authority, new_node};

use crate::{config::CertsFlags, run::say};

const AUTHORITY: &str = "ca";

/// The authority's name in its certificates.
const CLUSTER: &str = "cortexdb";

/// Makes what is not there yet.
pub fn run(flags: &CertsFlags) -> Result<()> {
    let dir = &flags.dir;
    // The keys are readable for their owner alone.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    let authority_key = dir.join(format!("{AUTHORITY}.key"));
    let key = if authority_key.exists() {
        fs::read_to_string(&authority_key)
            .with_context(|| format!("cannot read {}", authority_key.display()))?
    } else {
        let authority = new_authority(CLUSTER)?;
        write(&dir.join(format!("{AUTHORITY}.crt")), &authority.certificate)?;
        write(&authority_key, &authority.key)?;
        authority.key
    };
    for name in &flags.names {
        let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if name.is_empty() || name == AUTHORITY || !is_plain {
            bail!("\"{name}\" cannot name a certificate: use letters, digits, - and _");
        }
        let node = new_node(CLUSTER, &key, name)?;
        write(&dir.join(format!("{name}.crt")), &node.certificate)?;
        write(&dir.join(format!("{name}.key")), &node.key)?;
    }
    let (shown, name) = (dir.display(), &flags.names[0]);
    say(format_args!(
        "certificates in {shown}; keep {AUTHORITY}.key off the nodes. A node needs\n\n  \
         --cluster-ca {shown}/{AUTHORITY}.crt --cluster-cert {shown}/{name}.crt --cluster-key \
         {shown}/{name}.key\n"
    ));
    Ok(())
}

/// A file that is there already is not written over.
fn write(path: &Path, pem: &str) -> Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(pem.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
