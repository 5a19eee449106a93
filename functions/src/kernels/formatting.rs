use cortex_shard_api::SqlType;

use super::Kernel;

pub(super) fn find(_name: &str, _args: &[Option<SqlType>]) -> Option<Kernel> {
    None
}
