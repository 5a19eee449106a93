//! EXPLAIN: the plan of a statement as text or JSON; ANALYZE runs it and adds what each shard did.

use std::{sync::Arc, time::Instant};

use cortex_planner::explain;
use cortex_shard_api::Datum;
use futures::StreamExt;

use super::{
    plan::{Plan, PreparedPlan, QueryPlan, text_columns},
    query::physical_plan,
    session::Session,
};
use crate::{
    error::PgError,
    parse::{Ast, ExplainFormat, ExplainOptions},
    statement::{Execution, RowSource, RowsTag},
};
