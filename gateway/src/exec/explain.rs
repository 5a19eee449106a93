//! EXPLAIN: the plan of a statement as text or JSON; ANALYZE runs it and adds what each shard did.

use std::{sync::Arc, time::Instant};

use cortex_planner::{
    bind::write::{BoundWrite, InsertSource},
    explain::{self, Explain},
    lower::BoundQuery,
    route::route_keys,
};
use cortex_shard_api::{Datum, ScalarExpr, TableDescriptor, client::Key};
use futures::StreamExt;

use super::{
    fast::primary_key,
    plan::{Plan, PreparedPlan, QueryPlan, text_columns},
    query::physical_plan,
    session::Session,
};
use crate::{
    error::{PgError, SqlState},
    parse::{Ast, ExplainFormat, ExplainOptions},
    statement::{Execution, RowSource, RowsTag},
};
