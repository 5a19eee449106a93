//! Typed scalar expressions that travel to a shard: checks, defaults, `SET x = x + 1`, simple predicates.
//!
//! Lives here: the tree alone. The planner makes it (all names, overloads and casts are already resolved) and
//! `functions::scalar` evaluates it. Not here: subqueries, aggregates and windows; those go through DataFusion.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    nesting,
    types::{SqlType, TypeMod},
    value::Datum,
};

/// A scalar expression over one input row. Depth is bounded by the binder (`functions::scalar::DEPTH_MAX`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub enum ScalarExpr {
    Literal {
        value: Datum,
        ty: TypeMod,
    },
    /// Position in the input row. For ON CONFLICT DO UPDATE the row is existing ++ excluded.
    Column {
        position: usize,
        ty: TypeMod,
    },
    /// `$1` is index 0.
    Parameter {
        index: usize,
        ty: SqlType,
    },
    /// A function or operator by its unique signature in `functions::registry`, e.g. `int4pl(int4,int4)`.
    Call {
        function: String,
        args: Vec<ScalarExpr>,
        ty: TypeMod,
    },
    /// Conversion with Postgres's meaning of the cast (assignment and explicit casts differ in char(n) overflow).
    Cast {
        arg: Box<ScalarExpr>,
        to: TypeMod,
        explicit: bool,
    },
    And(Vec<ScalarExpr>),
    Or(Vec<ScalarExpr>),
    Not(Box<ScalarExpr>),
    IsNull(Box<ScalarExpr>),
    /// `CASE WHEN condition THEN value ... ELSE value END`; the searched form only.
    Case {
        branches: Vec<(ScalarExpr, ScalarExpr)>,
        otherwise: Option<Box<ScalarExpr>>,
        ty: TypeMod,
    },
    Coalesce {
        args: Vec<ScalarExpr>,
        ty: TypeMod,
    },
    /// `IS [NOT] DISTINCT FROM` over a resolved equality.
    IsDistinct {
        left: Box<ScalarExpr>,
        right: Box<ScalarExpr>,
        negated: bool,
        equality: String,
    },
    /// `ARRAY[...]`
    Array {
        elements: Vec<ScalarExpr>,
        ty: TypeMod,
    },
}

// The derived forms, level by level: see `nesting`.
impl Serialize for ScalarExpr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        nesting::write(|| ScalarExpr::serialize(self, serializer))
    }
}

impl<'de> Deserialize<'de> for ScalarExpr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ScalarExpr, D::Error> {
        nesting::read(|| ScalarExpr::deserialize(deserializer))
    }
}

impl ScalarExpr {
    /// A constant of a type without modifier.
    pub fn literal(value: Datum, ty: SqlType) -> ScalarExpr {
        ScalarExpr::Literal { value, ty: TypeMod::plain(ty) }
    }

    /// The type of the result.
    pub fn ty(&self) -> TypeMod {
        match self {
            ScalarExpr::Literal { ty, .. }
            | ScalarExpr::Column { ty, .. }
            | ScalarExpr::Call { ty, .. }
            | ScalarExpr::Case { ty, .. }
            | ScalarExpr::Coalesce { ty, .. }
            | ScalarExpr::Array { ty, .. } => *ty,
            ScalarExpr::Parameter { ty, .. } => TypeMod::plain(*ty),
            ScalarExpr::Cast { to, .. } => *to,
            ScalarExpr::And(_)
            | ScalarExpr::Or(_)
            | ScalarExpr::Not(_)
            | ScalarExpr::IsNull(_)
            | ScalarExpr::IsDistinct { .. } => TypeMod::plain(SqlType::Bool),
        }
    }
}
