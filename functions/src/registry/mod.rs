//! Signatures and how Postgres chooses among them: its type system, for binder, shards and catalogs.
//!
//! Lives here: which functions, operators, casts and aggregates exist (from PostgreSQL's own catalogs, `facts`), overload
//! resolution (`resolve`), casts (`casts`) and type categories (`types`). Not here: what they compute (`kernels`).

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, RwLock},
};

use cortex_shard_api::{SqlType, TypeMod};

mod casts;
mod catalog;
pub(crate) mod facts;
mod resolve;
mod types;

pub use casts::can_cast;
pub(crate) use casts::{Pathway, pathway};
pub use catalog::{CastInfo, FunctionInfo, OperatorInfo, casts, functions, operators};
use facts::{Kind, Procedure, facts};
pub(crate) use types::ArgType;
pub use types::{category, is_preferred, type_by_name};

use crate::kernels::{Implementation, arguments_text};

/// A scalar function or operator chosen for its arguments.
#[derive(Clone, Debug)]
pub struct ResolvedCall {
    /// Unique signature, e.g. `int4pl(int4,int4)`; what `ScalarExpr::Call::function` holds. The types are those of this call:
    /// `array_append(_int4,int4)`.
    pub signature: String,
    /// The types that the arguments must be cast to (implicitly), one per argument given. `Unknown`: leave a literal as it is
    /// (arguments declared "any": concat, pg_typeof).
    pub arg_types: Vec<SqlType>,
    pub returns: SqlType,
    pub volatility: Volatility,
    /// Set-returning functions may stand in FROM and in a select list.
    pub returns_set: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volatility {
    Immutable,
    Stable,
    Volatile,
}

/// An aggregate or window function chosen for its arguments.
#[derive(Clone, Debug)]
pub struct ResolvedAggregate {
    pub signature: String,
    pub arg_types: Vec<SqlType>,
    pub returns: SqlType,
    pub window_only: bool,
    /// Needs `WITHIN GROUP (ORDER BY ...)`; its last argument is what is ordered.
    pub ordered_set: bool,
}

/// Why no function was chosen; the message is Postgres's ("function foo(integer) does not exist").
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResolveError {
    /// 42883
    #[error("{0}")]
    Undefined(String),
    /// 42725
    #[error("{0}")]
    Ambiguous(String),
    /// 42846, 42804
    #[error("{0}")]
    TypeMismatch(String),
}

impl ResolveError {
    /// Postgres's HINT for this error.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ResolveError::Undefined(message) if message.starts_with("operator") => Some(
                "No operator matches the given name and argument types. You might need to add explicit type casts.",
            ),
            ResolveError::Undefined(_) => Some(
                "No function matches the given name and argument types. You might need to add explicit type casts.",
            ),
            ResolveError::Ambiguous(message) if message.starts_with("operator") => Some(
                "Could not choose a best candidate operator. You might need to add explicit type casts.",
            ),
            ResolveError::Ambiguous(_) => Some(
                "Could not choose a best candidate function. You might need to add explicit type casts.",
            ),
            ResolveError::TypeMismatch(_) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CastContext {
    Implicit,
    Assignment,
    Explicit,
}

/// Chooses a scalar function. `Unknown` marks untyped literals and parameters.
/// Bound by the binder itself: COALESCE, GREATEST, LEAST, NULLIF (`common_type`), CASE, ARRAY[...].
/// Grammar forms have function names: EXTRACT → extract(text, x), AT TIME ZONE → timezone(zone, x), POSITION(a IN b) →
/// position(b, a), TRIM → btrim/ltrim/rtrim, SUBSTRING/OVERLAY by name, x SIMILAR TO p → x ~ similar_to_escape(p),
/// LIKE ... ESCAPE e → x ~~ like_escape(p, e), CURRENT_DATE etc. as functions without arguments, `a[i]` → array_subscript(a, i),
/// `a[i:j]` → array_slice(a, i, j).
pub fn resolve_function(name: &str, args: &[SqlType]) -> Result<ResolvedCall, ResolveError> {
    match resolve::function(name, &[Kind::Function], args) {
        Ok(choice) => Ok(resolved(choice.item, choice.arg_types, choice.returns)),
        Err(error) => function_style_cast(name, args).ok_or(error),
    }
}

fn resolved(procedure: &Procedure, arg_types: Vec<SqlType>, returns: SqlType) -> ResolvedCall {
    ResolvedCall {
        signature: signature(procedure.name, &arg_types),
        arg_types,
        returns,
        volatility: procedure.volatility,
        returns_set: procedure.returns_set,
    }
}

fn signature(name: &str, args: &[SqlType]) -> String {
    format!("{name}({})", arguments_text(args))
}

/// `date('2020-01-01')`, `text(x)`: a type's name with one argument casts to it.
fn function_style_cast(name: &str, args: &[SqlType]) -> Option<ResolvedCall> {
    let [from] = args else { return None };
    let to = type_by_name(name).filter(|to| to.element().is_none())?;
    let from = if *from == SqlType::Unknown { to } else { *from };
    let allowed = from == to
        || matches!(
            pathway(from, to, CastContext::Explicit),
            Some(Pathway::Relabel | Pathway::Text)
        );
    allowed.then(|| ResolvedCall {
        signature: format!("{CAST_PREFIX}{}({})", to.catalog_name(), from.catalog_name()),
        arg_types: vec![from],
        returns: to,
        volatility: Volatility::Stable,
        returns_set: false,
    })
}

/// Begins the signature of a cast written as a function.
pub(crate) const CAST_PREFIX: &str = "cast:";

/// Chooses an operator; `left` is `None` for prefix operators. Comparison returns signatures such as `int4eq(int4,int4)`.
pub fn resolve_operator(
    op: &str,
    left: Option<SqlType>,
    right: SqlType,
) -> Result<ResolvedCall, ResolveError> {
    let choice = resolve::operator(op, left, right)?;
    let facts = facts();
    let procedure = &facts.procedures[facts.by_oid[&choice.item.function]];
    Ok(resolved(procedure, choice.arg_types, choice.returns))
}

/// `left op ANY (array)` and `left op ALL (array)`. `arg_types` are the left operand's and the array's.
pub fn resolve_array_operator(
    op: &str,
    left: SqlType,
    array: SqlType,
    all: bool,
) -> Result<ResolvedCall, ResolveError> {
    let element = match array {
        SqlType::Array(element) => *element,
        SqlType::Unknown => SqlType::Unknown,
        _ => {
            return Err(ResolveError::TypeMismatch(
                "op ANY/ALL (array) requires array on right side".to_owned(),
            ));
        }
    };
    let inner = resolve_operator(op, Some(left), element)?;
    if inner.returns != SqlType::Bool {
        return Err(ResolveError::TypeMismatch(
            "op ANY/ALL (array) requires operator to yield boolean".to_owned(),
        ));
    }
    let array = inner.arg_types[1].array().ok_or_else(|| {
        ResolveError::TypeMismatch(format!(
            "could not find array type for data type {}",
            inner.arg_types[1].sql_name()
        ))
    })?;
    Ok(ResolvedCall {
        signature: format!("{}{}", if all { ALL_PREFIX } else { ANY_PREFIX }, inner.signature),
        arg_types: vec![inner.arg_types[0], array],
        returns: SqlType::Bool,
        volatility: inner.volatility,
        returns_set: false,
    })
}

/// Begin the signatures of comparisons with every element of an array.
pub(crate) const ANY_PREFIX: &str = "any:";
pub(crate) const ALL_PREFIX: &str = "all:";

/// True for aggregates, ordered-set aggregates included.
pub fn is_aggregate(name: &str) -> bool {
    facts().named(name).any(|p| matches!(p.kind, Kind::Aggregate | Kind::OrderedSet))
}

/// True for aggregates that need WITHIN GROUP.
pub fn is_ordered_set_aggregate(name: &str) -> bool {
    facts().named(name).any(|p| p.kind == Kind::OrderedSet)
}

/// True for functions that exist only as window functions (row_number, lag, ...).
pub fn is_window_function(name: &str) -> bool {
    facts().named(name).any(|p| p.kind == Kind::Window)
}

/// Chooses an aggregate or window function. `count(*)` has no arguments; ordered-set aggregates have their direct arguments and
/// then what WITHIN GROUP orders.
pub fn resolve_aggregate(name: &str, args: &[SqlType]) -> Result<ResolvedAggregate, ResolveError> {
    let kinds = [Kind::Aggregate, Kind::OrderedSet, Kind::Window];
    let choice = resolve::function(name, &kinds, args)?;
    Ok(ResolvedAggregate {
        signature: signature(choice.item.name, &choice.arg_types),
        arg_types: choice.arg_types,
        returns: choice.returns,
        window_only: choice.item.kind == Kind::Window,
        ordered_set: choice.item.kind == Kind::OrderedSet,
    })
}

/// The common type of UNION columns, CASE branches, VALUES, COALESCE, ARRAY elements, as `select_common_type` chooses.
/// `context` is for the message ("UNION types integer and text cannot be matched").
pub fn common_type(types: &[SqlType], context: &str) -> Result<SqlType, ResolveError> {
    let Some(first) = types.first().copied() else { return Ok(SqlType::Text) };
    if first != SqlType::Unknown && types.iter().all(|ty| *ty == first) {
        return Ok(first);
    }
    let mut chosen = first;
    for next in types[1..].iter().copied() {
        if next == SqlType::Unknown || next == chosen {
            continue;
        }
        if chosen == SqlType::Unknown {
            chosen = next;
        } else if category(next) != category(chosen) {
            return Err(cannot_match(context, chosen, next));
        } else if !is_preferred(chosen)
            && can_cast(chosen, next, CastContext::Implicit)
            && !can_cast(next, chosen, CastContext::Implicit)
        {
            chosen = next;
        }
    }
    if chosen == SqlType::Unknown {
        return Ok(SqlType::Text);
    }
    match types.iter().find(|ty| !can_cast(**ty, chosen, CastContext::Implicit)) {
        Some(stuck) => Err(ResolveError::TypeMismatch(format!(
            "{context} could not convert type {} to {}",
            stuck.sql_name(),
            chosen.sql_name()
        ))),
        None => Ok(chosen),
    }
}

fn cannot_match(context: &str, left: SqlType, right: SqlType) -> ResolveError {
    ResolveError::TypeMismatch(format!(
        "{context} types {} and {} cannot be matched",
        left.sql_name(),
        right.sql_name()
    ))
}

/// Columns that a set-returning function has in FROM: (name, type). One, named as the function, unless it has OUT parameters.
pub fn set_columns(call: &ResolvedCall) -> Vec<(String, SqlType)> {
    let name = call.signature.split('(').next().unwrap_or_default();
    if call.returns == SqlType::Record
        && let Some(procedure) = facts().named(name).find(|p| {
            !p.out.is_empty()
                && p.args.len() >= call.arg_types.len()
                && p.args
                    .iter()
                    .zip(&call.arg_types)
                    .all(|(declared, given)| !matches!(declared, ArgType::Type(ty) if ty != given))
        })
    {
        return procedure
            .out
            .iter()
            .map(|(name, ty)| match ty {
                ArgType::Type(ty) => ((*name).to_owned(), *ty),
                _ => ((*name).to_owned(), SqlType::Text),
            })
            .collect();
    }
    let column = facts()
        .named(name)
        .find_map(|p| p.out.first().map(|(name, _)| (*name).to_owned()))
        .unwrap_or_else(|| name.to_owned());
    vec![(column, call.returns)]
}

/// Result modifier of a call: e.g. numeric(10,2) survives `max`, char(n) does not survive `||`.
pub fn result_typmod(call: &ResolvedCall, args: &[TypeMod]) -> i32 {
    // Only a length-coercion keeps a modifier in Postgres; a subscript keeps its array's.
    match args {
        [array, ..] if call.signature.starts_with("array_subscript(") => array.typmod,
        _ => -1,
    }
}

/// A call ready to run, found by its signature.
#[derive(Debug)]
pub(crate) struct BoundCall {
    pub signature: String,
    pub name: &'static str,
    pub args: Vec<SqlType>,
    pub returns: SqlType,
    pub strict: bool,
    pub volatility: Volatility,
    pub returns_set: bool,
    pub implementation: Implementation,
    /// The comparison inside `any:` and `all:`.
    pub inner: Option<Arc<BoundCall>>,
}

/// Signatures remembered at the most; variadic functions have as many as users write.
const BOUND_CALLS_MAX: usize = 10_000;

/// The call of a signature made by `resolve_*`; `None` if no such function exists (any more).
pub(crate) fn bound_call(signature: &str) -> Option<Arc<BoundCall>> {
    static CALLS: LazyLock<RwLock<HashMap<String, Arc<BoundCall>>>> =
        LazyLock::new(RwLock::default);
    let read = CALLS.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(call) = read.get(signature) {
        return Some(call.clone());
    }
    drop(read);
    let call = Arc::new(bind_signature(signature)?);
    let mut write = CALLS.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    if write.len() >= BOUND_CALLS_MAX {
        write.clear();
    }
    write.insert(signature.to_owned(), call.clone());
    Some(call)
}

fn bind_signature(signature: &str) -> Option<BoundCall> {
    for (prefix, all) in [(ANY_PREFIX, false), (ALL_PREFIX, true)] {
        if let Some(rest) = signature.strip_prefix(prefix) {
            // Arrays have one dimension, so there is nothing to quantify twice; signatures may come from outside.
            if [ANY_PREFIX, ALL_PREFIX].iter().any(|prefix| rest.starts_with(prefix)) {
                return None;
            }
            let inner = bound_call(rest)?;
            let [left, right] = inner.args[..] else { return None };
            return Some(BoundCall {
                signature: signature.to_owned(),
                name: if all { "all" } else { "any" },
                args: vec![left, right.array()?],
                returns: SqlType::Bool,
                strict: false,
                volatility: inner.volatility,
                returns_set: false,
                implementation: Implementation::ArrayComparison { all },
                inner: Some(inner),
            });
        }
    }
    let (name, args) = signature.strip_suffix(')')?.split_once('(')?;
    let args = match args {
        "" => Vec::new(),
        list => list.split(',').map(type_by_catalog_name).collect::<Option<Vec<_>>>()?,
    };
    if let Some(to) = name.strip_prefix(CAST_PREFIX) {
        let to = type_by_catalog_name(to)?;
        return Some(BoundCall {
            signature: signature.to_owned(),
            name: to.catalog_name(),
            args,
            returns: to,
            strict: true,
            volatility: Volatility::Stable,
            returns_set: false,
            implementation: Implementation::Cast,
            inner: None,
        });
    }
    let choice = resolve::function(name, &[Kind::Function], &args).ok()?;
    let procedure = choice.item;
    Some(BoundCall {
        signature: signature.to_owned(),
        name: procedure.name,
        args: choice.arg_types,
        returns: choice.returns,
        strict: procedure.strict,
        volatility: procedure.volatility,
        returns_set: procedure.returns_set,
        implementation: procedure.implementation,
        inner: None,
    })
}

pub(crate) fn type_by_catalog_name(name: &str) -> Option<SqlType> {
    let scalar = |name: &str| {
        cortex_shard_api::types::SCALARS.iter().copied().find(|ty| ty.catalog_name() == name)
    };
    scalar(name).or_else(|| scalar(name.strip_prefix('_')?)?.array())
}
