//! Typed expressions: what the expression binder makes of an AST.
//!
//! Lives here: the tree, its comparison and its reduction to a `ScalarExpr`. Every node has its Postgres type; casts and
//! overloads are explicit. Not here: how it is made (`bind::expr` and its neighbours), what DataFusion sees of it
//! (`lower::expr`).

use std::sync::Arc;

use cortex_functions::registry::{ResolvedAggregate, ResolvedCall};
use cortex_shard_api::{Datum, Oid, ScalarExpr, SqlType, TypeMod};
use datafusion::{
    common::Column,
    logical_expr::{Expr, LogicalPlan},
};

use crate::catalog::Table;

/// An expression with its type and where it stands in the statement (characters from 1).
#[derive(Clone, Debug)]
pub struct TypedExpr {
    pub kind: Kind,
    pub ty: TypeMod,
    pub position: Option<usize>,
}

/// A column of one relation of one FROM clause.
#[derive(Debug)]
pub struct ColumnRef {
    /// Tells relations of a statement apart, also those of the same table.
    pub instance: usize,
    /// Position in the row: attribute position in a table, index in any other relation. In the scope of ON CONFLICT the
    /// excluded row follows the existing one.
    pub position: usize,
    /// The relation's name as the user sees it, and the column's.
    pub relation: String,
    pub name: String,
    /// The column in DataFusion's plan.
    pub column: Column,
    pub table: Option<Arc<Table>>,
    /// The system relation that it comes from.
    pub system: Option<Oid>,
}

impl ColumnRef {
    /// (table OID, attribute number), or (0, 0).
    pub fn source(&self) -> (u32, i16) {
        match self.table.as_ref().map(|table| table.descriptor.oid).or(self.system) {
            Some(oid) => (oid.0, i16::try_from(self.position + 1).unwrap_or(0)),
            None => (0, 0),
        }
    }

    pub fn same(&self, other: &ColumnRef) -> bool {
        self.instance == other.instance && self.position == other.position
    }
}

/// What an expression is. Arguments already have the types that the call, cast or construct wants.
#[derive(Clone, Debug)]
pub enum Kind {
    /// With type `Unknown` (text or NULL) until something gives it a type.
    Literal(Datum),
    /// `level` counts the queries between the reference and the relation.
    Column {
        column: Arc<ColumnRef>,
        level: usize,
    },
    /// `$1` is index 0. With type `Unknown` until something gives it a type.
    Parameter(usize),
    Call {
        call: Arc<ResolvedCall>,
        args: Vec<TypedExpr>,
    },
    Cast {
        arg: Box<TypedExpr>,
        explicit: bool,
    },
    And(Vec<TypedExpr>),
    Or(Vec<TypedExpr>),
    Not(Box<TypedExpr>),
    IsNull(Box<TypedExpr>),
    Case {
        branches: Vec<(TypedExpr, TypedExpr)>,
        otherwise: Option<Box<TypedExpr>>,
    },
    Coalesce(Vec<TypedExpr>),
    IsDistinct {
        left: Box<TypedExpr>,
        right: Box<TypedExpr>,
        negated: bool,
        equality: Arc<ResolvedCall>,
    },
    Array(Vec<TypedExpr>),
    /// `expr IN (list)`: equality with any of the list.
    InList {
        expr: Box<TypedExpr>,
        list: Vec<TypedExpr>,
        equality: Arc<ResolvedCall>,
    },
    /// `left op ANY (array)`, `left op ALL (array)`.
    Quantified {
        left: Box<TypedExpr>,
        array: Box<TypedExpr>,
        call: Arc<ResolvedCall>,
        all: bool,
    },
    Aggregate(Box<AggregateCall>),
    Window(Box<WindowCall>),
    /// `GROUPING(...)`
    Grouping(Vec<TypedExpr>),
    Subquery(Box<SubqueryExpr>),
    /// `(a, b)`; only compared, never stored.
    Row(Vec<TypedExpr>),
    /// Already computed by a plan node below.
    Plan(Expr),
}

#[derive(Clone, Debug)]
pub struct SortKey {
    pub expr: TypedExpr,
    pub ascending: bool,
    pub nulls_first: bool,
}

#[derive(Clone, Debug)]
pub struct AggregateCall {
    pub call: Arc<ResolvedAggregate>,
    pub args: Vec<TypedExpr>,
    pub distinct: bool,
    pub filter: Option<TypedExpr>,
    pub order_by: Vec<SortKey>,
}

#[derive(Clone, Debug)]
pub struct WindowCall {
    pub call: Arc<ResolvedAggregate>,
    pub args: Vec<TypedExpr>,
    pub filter: Option<TypedExpr>,
    pub partition_by: Vec<TypedExpr>,
    pub order_by: Vec<SortKey>,
    pub frame: Frame,
}

/// A window frame with its offsets bound. `None` is the default frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub units: FrameUnits,
    pub start: FrameBound,
    pub end: FrameBound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameUnits {
    Rows,
    Range,
    Groups,
}

#[derive(Clone, Debug)]
pub enum FrameBound {
    UnboundedPreceding,
    Preceding(Datum),
    CurrentRow,
    Following(Datum),
    UnboundedFollowing,
}

/// A subquery in an expression.
#[derive(Clone, Debug)]
pub struct SubqueryExpr {
    pub kind: SubqueryKind,
    pub plan: Arc<LogicalPlan>,
    /// Columns of the query around it that it uses.
    pub outer: Vec<OuterColumn>,
}

/// A column of the query around a subquery, as the subquery uses it first.
#[derive(Clone, Debug)]
pub struct OuterColumn {
    pub column: Arc<ColumnRef>,
    pub ty: TypeMod,
    pub position: Option<usize>,
}

#[derive(Clone, Debug)]
pub enum SubqueryKind {
    Scalar,
    Exists,
    /// `left op ANY (subquery)` (IN is `= ANY`) or ALL; for rows one comparison per column, all of which must hold. Each
    /// comparison has a `Kind::Plan` column of the subquery on its right side.
    Quantified {
        left: Vec<TypedExpr>,
        comparisons: Vec<Arc<ResolvedCall>>,
        right: Vec<TypedExpr>,
        all: bool,
    },
    Array,
}

impl TypedExpr {
    pub fn new(kind: Kind, ty: impl Into<TypeMod>) -> TypedExpr {
        TypedExpr { kind, ty: ty.into(), position: None }
    }

    pub fn literal(value: Datum, ty: SqlType) -> TypedExpr {
        TypedExpr::new(Kind::Literal(value), ty)
    }

    pub fn boolean(kind: Kind) -> TypedExpr {
        TypedExpr::new(kind, SqlType::Bool)
    }

    pub fn negate(self) -> TypedExpr {
        let position = self.position;
        TypedExpr::boolean(Kind::Not(Box::new(self))).at(position)
    }

    pub fn at(mut self, position: Option<usize>) -> TypedExpr {
        self.position = self.position.or(position);
        self
    }

    /// The conjunction; a single term is itself.
    pub fn and(mut terms: Vec<TypedExpr>) -> TypedExpr {
        match terms.pop() {
            Some(only) if terms.is_empty() => only,
            Some(last) => {
                terms.push(last);
                TypedExpr::boolean(Kind::And(terms))
            }
            None => TypedExpr::literal(Datum::Bool(true), SqlType::Bool),
        }
    }

    /// The disjunction; a single term is itself.
    pub fn or(mut terms: Vec<TypedExpr>) -> TypedExpr {
        match terms.pop() {
            Some(only) if terms.is_empty() => only,
            Some(last) => {
                terms.push(last);
                TypedExpr::boolean(Kind::Or(terms))
            }
            None => TypedExpr::literal(Datum::Bool(false), SqlType::Bool),
        }
    }

    /// An untyped NULL.
    pub fn is_null_literal(&self) -> bool {
        matches!(self.kind, Kind::Literal(Datum::Null))
    }

    /// The expressions directly inside, in order.
    pub fn children(&self) -> Vec<&TypedExpr> {
        match &self.kind {
            Kind::Literal(_) | Kind::Column { .. } | Kind::Parameter(_) | Kind::Plan(_) => {
                Vec::new()
            }
            Kind::Call { args, .. }
            | Kind::And(args)
            | Kind::Or(args)
            | Kind::Coalesce(args)
            | Kind::Array(args)
            | Kind::Grouping(args)
            | Kind::Row(args) => args.iter().collect(),
            Kind::Cast { arg, .. } | Kind::Not(arg) | Kind::IsNull(arg) => vec![arg],
            Kind::Case { branches, otherwise } => branches
                .iter()
                .flat_map(|(condition, value)| [condition, value])
                .chain(otherwise.as_deref())
                .collect(),
            Kind::IsDistinct { left, right, .. } => vec![left, right],
            Kind::InList { expr, list, .. } => std::iter::once(&**expr).chain(list).collect(),
            Kind::Quantified { left, array, .. } => vec![left, array],
            Kind::Aggregate(call) => call
                .args
                .iter()
                .chain(&call.filter)
                .chain(call.order_by.iter().map(|key| &key.expr))
                .collect(),
            Kind::Window(call) => call
                .args
                .iter()
                .chain(&call.filter)
                .chain(&call.partition_by)
                .chain(call.order_by.iter().map(|key| &key.expr))
                .collect(),
            Kind::Subquery(subquery) => match &subquery.kind {
                SubqueryKind::Quantified { left, .. } => left.iter().collect(),
                SubqueryKind::Scalar | SubqueryKind::Exists | SubqueryKind::Array => Vec::new(),
            },
        }
    }

    /// The expressions directly inside, in the order of `children`, to be replaced.
    pub fn children_mut(&mut self) -> Vec<&mut TypedExpr> {
        match &mut self.kind {
            Kind::Literal(_) | Kind::Column { .. } | Kind::Parameter(_) | Kind::Plan(_) => {
                Vec::new()
            }
            Kind::Call { args, .. }
            | Kind::And(args)
            | Kind::Or(args)
            | Kind::Coalesce(args)
            | Kind::Array(args)
            | Kind::Grouping(args)
            | Kind::Row(args) => args.iter_mut().collect(),
            Kind::Cast { arg, .. } | Kind::Not(arg) | Kind::IsNull(arg) => vec![arg],
            Kind::Case { branches, otherwise } => branches
                .iter_mut()
                .flat_map(|(condition, value)| [condition, value])
                .chain(otherwise.as_deref_mut())
                .collect(),
            Kind::IsDistinct { left, right, .. } => vec![left, right],
            Kind::InList { expr, list, .. } => std::iter::once(&mut **expr).chain(list).collect(),
            Kind::Quantified { left, array, .. } => vec![left, array],
            Kind::Aggregate(call) => call
                .args
                .iter_mut()
                .chain(&mut call.filter)
                .chain(call.order_by.iter_mut().map(|key| &mut key.expr))
                .collect(),
            Kind::Window(call) => call
                .args
                .iter_mut()
                .chain(&mut call.filter)
                .chain(&mut call.partition_by)
                .chain(call.order_by.iter_mut().map(|key| &mut key.expr))
                .collect(),
            Kind::Subquery(subquery) => match &mut subquery.kind {
                SubqueryKind::Quantified { left, .. } => left.iter_mut().collect(),
                SubqueryKind::Scalar | SubqueryKind::Exists | SubqueryKind::Array => Vec::new(),
            },
        }
    }

    /// Whether this expression or one inside it satisfies `test`. Subqueries are not entered.
    pub fn any(&self, test: &mut dyn FnMut(&TypedExpr) -> bool) -> bool {
        test(self) || self.children().into_iter().any(|child| child.any(test))
    }

    pub fn has_aggregate(&self) -> bool {
        self.any(&mut |expr| matches!(expr.kind, Kind::Aggregate(_) | Kind::Grouping(_)))
    }

    pub fn has_window(&self) -> bool {
        self.any(&mut |expr| matches!(expr.kind, Kind::Window(_)))
    }

    pub fn has_subquery(&self) -> bool {
        self.any(&mut |expr| matches!(expr.kind, Kind::Subquery(_)))
    }

    /// Whether it yields rows rather than a value.
    pub fn has_set(&self) -> bool {
        self.any(&mut |expr| matches!(&expr.kind, Kind::Call { call, .. } if call.returns_set))
    }

    /// Whether it reads a column of its own query.
    pub fn has_column(&self) -> bool {
        self.any(&mut |expr| matches!(expr.kind, Kind::Column { level: 0, .. } | Kind::Plan(_)))
    }

    /// Whether both compute the same, wherever they stand. Of subqueries only copies
    /// of one are the same.
    pub fn same(&self, other: &TypedExpr) -> bool {
        self.ty == other.ty && same_kind(&self.kind, &other.kind)
    }

    /// The expression for evaluation over one row, if it is one: without subqueries, aggregates, windows and rows.
    pub fn to_scalar(&self) -> Option<ScalarExpr> {
        let all =
            |args: &[TypedExpr]| args.iter().map(TypedExpr::to_scalar).collect::<Option<Vec<_>>>();
        let boxed = |arg: &TypedExpr| arg.to_scalar().map(Box::new);
        Some(match &self.kind {
            Kind::Literal(value) => ScalarExpr::Literal { value: value.clone(), ty: self.ty },
            Kind::Column { column, level: 0 } => {
                ScalarExpr::Column { position: column.position, ty: self.ty }
            }
            Kind::Parameter(index) => ScalarExpr::Parameter { index: *index, ty: self.ty.ty },
            Kind::Call { call, args } if !call.returns_set => {
                ScalarExpr::Call { function: call.signature.clone(), args: all(args)?, ty: self.ty }
            }
            Kind::Cast { arg, explicit } => {
                ScalarExpr::Cast { arg: boxed(arg)?, to: self.ty, explicit: *explicit }
            }
            Kind::And(terms) => ScalarExpr::And(all(terms)?),
            Kind::Or(terms) => ScalarExpr::Or(all(terms)?),
            Kind::Not(arg) => ScalarExpr::Not(boxed(arg)?),
            Kind::IsNull(arg) => ScalarExpr::IsNull(boxed(arg)?),
            Kind::Case { branches, otherwise } => ScalarExpr::Case {
                branches: branches
                    .iter()
                    .map(|(condition, value)| Some((condition.to_scalar()?, value.to_scalar()?)))
                    .collect::<Option<Vec<_>>>()?,
                otherwise: match otherwise {
                    Some(otherwise) => Some(boxed(otherwise)?),
                    None => None,
                },
                ty: self.ty,
            },
            Kind::Coalesce(args) => ScalarExpr::Coalesce { args: all(args)?, ty: self.ty },
            Kind::IsDistinct { left, right, negated, equality } => ScalarExpr::IsDistinct {
                left: boxed(left)?,
                right: boxed(right)?,
                negated: *negated,
                equality: equality.signature.clone(),
            },
            Kind::Array(elements) => ScalarExpr::Array { elements: all(elements)?, ty: self.ty },
            Kind::InList { expr, list, equality } => {
                let left = expr.to_scalar()?;
                ScalarExpr::Or(
                    list.iter()
                        .map(|item| {
                            Some(ScalarExpr::Call {
                                function: equality.signature.clone(),
                                args: vec![left.clone(), item.to_scalar()?],
                                ty: TypeMod::plain(SqlType::Bool),
                            })
                        })
                        .collect::<Option<Vec<_>>>()?,
                )
            }
            Kind::Column { .. }
            | Kind::Call { .. }
            | Kind::Quantified { .. }
            | Kind::Aggregate(_)
            | Kind::Window(_)
            | Kind::Grouping(_)
            | Kind::Subquery(_)
            | Kind::Row(_)
            | Kind::Plan(_) => return None,
        })
    }
}

fn same_kind(left: &Kind, right: &Kind) -> bool {
    let all = |left: &[TypedExpr], right: &[TypedExpr]| {
        left.len() == right.len() && left.iter().zip(right).all(|(left, right)| left.same(right))
    };
    let keys = |left: &[SortKey], right: &[SortKey]| {
        left.len() == right.len()
            && left.iter().zip(right).all(|(left, right)| {
                left.ascending == right.ascending
                    && left.nulls_first == right.nulls_first
                    && left.expr.same(&right.expr)
            })
    };
    let option = |left: &Option<TypedExpr>, right: &Option<TypedExpr>| match (left, right) {
        (Some(left), Some(right)) => left.same(right),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    match (left, right) {
        // Datums have no equality of their own; their debug text shows every bit that counts.
        (Kind::Literal(left), Kind::Literal(right)) => format!("{left:?}") == format!("{right:?}"),
        (Kind::Column { column: left, level: a }, Kind::Column { column: right, level: b }) => {
            a == b && left.same(right)
        }
        (Kind::Parameter(left), Kind::Parameter(right)) => left == right,
        (Kind::Call { call: f, args: left }, Kind::Call { call: g, args: right }) => {
            f.signature == g.signature && !f.returns_set && all(left, right)
        }
        (Kind::Cast { arg: left, explicit: a }, Kind::Cast { arg: right, explicit: b }) => {
            a == b && left.same(right)
        }
        (Kind::And(left), Kind::And(right))
        | (Kind::Or(left), Kind::Or(right))
        | (Kind::Coalesce(left), Kind::Coalesce(right))
        | (Kind::Array(left), Kind::Array(right))
        | (Kind::Grouping(left), Kind::Grouping(right))
        | (Kind::Row(left), Kind::Row(right)) => all(left, right),
        (Kind::Not(left), Kind::Not(right)) | (Kind::IsNull(left), Kind::IsNull(right)) => {
            left.same(right)
        }
        (
            Kind::Case { branches: left, otherwise: a },
            Kind::Case { branches: right, otherwise: b },
        ) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(left, right)| left.0.same(&right.0) && left.1.same(&right.1))
                && match (a, b) {
                    (Some(a), Some(b)) => a.same(b),
                    (None, None) => true,
                    (Some(_), None) | (None, Some(_)) => false,
                }
        }
        (
            Kind::IsDistinct { left: a, right: b, negated: n, .. },
            Kind::IsDistinct { left: c, right: d, negated: m, .. },
        ) => n == m && a.same(c) && b.same(d),
        (
            Kind::InList { expr: a, list: left, equality: f },
            Kind::InList { expr: b, list: right, equality: g },
        ) => f.signature == g.signature && a.same(b) && all(left, right),
        (
            Kind::Quantified { left: a, array: b, call: f, all: n },
            Kind::Quantified { left: c, array: d, call: g, all: m },
        ) => f.signature == g.signature && n == m && a.same(c) && b.same(d),
        (Kind::Aggregate(left), Kind::Aggregate(right)) => {
            left.call.signature == right.call.signature
                && left.distinct == right.distinct
                && all(&left.args, &right.args)
                && option(&left.filter, &right.filter)
                && keys(&left.order_by, &right.order_by)
        }
        (Kind::Window(left), Kind::Window(right)) => {
            left.call.signature == right.call.signature
                && all(&left.args, &right.args)
                && option(&left.filter, &right.filter)
                && all(&left.partition_by, &right.partition_by)
                && keys(&left.order_by, &right.order_by)
                && format!("{:?}", left.frame) == format!("{:?}", right.frame)
        }
        (Kind::Plan(left), Kind::Plan(right)) => left == right,
        // Two references to one select item share its plan.
        (Kind::Subquery(left), Kind::Subquery(right)) => Arc::ptr_eq(&left.plan, &right.plan),
        _ => false,
    }
}
