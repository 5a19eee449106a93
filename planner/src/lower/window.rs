//! Window functions.

use cortex_functions::{
    lower::{self as functions, WindowSpec as LoweredSpec},
    registry::CastContext,
};
use cortex_shard_api::{Datum, SqlType, TypeMod, ValueErrorKind, value::arrow::array_from_datums};
use datafusion::{
    common::{Column, ScalarValue},
    logical_expr::{
        Expr, LogicalPlan, LogicalPlanBuilder, SortExpr, WindowFrame as EngineFrame,
        WindowFrameBound as EngineBound, WindowFrameUnits as EngineUnits,
    },
};
use sqlparser::ast::{
    self, NamedWindowDefinition, NamedWindowExpr, WindowFrameUnits, WindowSpec, WindowType,
};

use super::{
    engine_error,
    expr::{key, lower},
};
use crate::{
    PlanError, PlanErrorKind,
    bind::{
        Binder, Clause, Scope,
        names::fold_ident,
        typed::{Frame, FrameBound, FrameUnits, Kind, SortKey, TypedExpr, WindowCall},
    },
};

impl Binder<'_> {
    /// `WINDOW w AS (...)`, each resolved against those before it.
    pub(super) fn named_windows(
        &mut self,
        definitions: &[NamedWindowDefinition],
    ) -> Result<Vec<(String, WindowSpec)>, PlanError> {
        let mut scope = Scope::empty();
        for NamedWindowDefinition(name, definition) in definitions {
            let folded = fold_ident(name);
            if scope.window_names.iter().any(|(other, _)| *other == folded) {
                return Err(PlanError::new(
                    PlanErrorKind::Windowing,
                    format!("window \"{folded}\" is already defined"),
                )
                .at(self.position(name.span)));
            }
            let over = match definition {
                NamedWindowExpr::NamedWindow(other) => WindowType::NamedWindow(other.clone()),
                NamedWindowExpr::WindowSpec(spec) => WindowType::WindowSpec(spec.clone()),
            };
            let spec = self.window_spec(&over, &scope)?;
            scope.window_names.push((folded, spec));
        }
        Ok(scope.window_names)
    }

    /// What an OVER clause says, named windows looked up.
    pub(crate) fn window_spec(
        &self,
        over: &WindowType,
        scope: &Scope,
    ) -> Result<WindowSpec, PlanError> {
        let find = |ident: &ast::Ident| {
            let name = fold_ident(ident);
            scope
                .window_names
                .iter()
                .find(|(other, _)| *other == name)
                .map(|(_, spec)| spec.clone())
                .ok_or_else(|| {
                    PlanError::new(
                        PlanErrorKind::UndefinedObject,
                        format!("window \"{name}\" does not exist"),
                    )
                    .at(self.position(ident.span))
                })
        };
        match over {
            WindowType::NamedWindow(name) => find(name),
            WindowType::WindowSpec(spec) => {
                let Some(base) = &spec.window_name else { return Ok(spec.clone()) };
                let found = find(base)?;
                let name = fold_ident(base);
                let refuse = |what: &str| {
                    Err(PlanError::new(
                        PlanErrorKind::Windowing,
                        format!("cannot {what} of window \"{name}\""),
                    ))
                };
                if !spec.partition_by.is_empty() {
                    return refuse("override PARTITION BY clause");
                }
                if !spec.order_by.is_empty() && !found.order_by.is_empty() {
                    return refuse("override ORDER BY clause");
                }
                if found.window_frame.is_some() {
                    return Err(PlanError::new(
                        PlanErrorKind::Windowing,
                        format!("cannot copy window \"{name}\" because it has a frame clause"),
                    ));
                }
                let order_by = match spec.order_by.is_empty() {
                    true => found.order_by,
                    false => spec.order_by.clone(),
                };
                Ok(WindowSpec {
                    window_name: None,
                    partition_by: found.partition_by,
                    order_by,
                    window_frame: spec.window_frame.clone(),
                })
            }
        }
    }

    pub(crate) fn bind_frame(
        &mut self,
        frame: Option<&ast::WindowFrame>,
        order_by: &[SortKey],
        scope: &Scope,
    ) -> Result<Frame, PlanError> {
        let Some(frame) = frame else {
            let end = match order_by.is_empty() {
                true => FrameBound::UnboundedFollowing,
                false => FrameBound::CurrentRow,
            };
            return Ok(Frame {
                units: FrameUnits::Range,
                start: FrameBound::UnboundedPreceding,
                end,
            });
        };
        let units = match frame.units {
            WindowFrameUnits::Rows => FrameUnits::Rows,
            WindowFrameUnits::Range => FrameUnits::Range,
            WindowFrameUnits::Groups => FrameUnits::Groups,
        };
        if units == FrameUnits::Groups && order_by.is_empty() {
            return Err(PlanError::new(
                PlanErrorKind::Windowing,
                "GROUPS mode requires an ORDER BY clause",
            ));
        }
        let start = self.frame_bound(&frame.start_bound, units, order_by, scope)?;
        let end = match &frame.end_bound {
            Some(end) => self.frame_bound(end, units, order_by, scope)?,
            None => FrameBound::CurrentRow,
        };
        check_bounds(&start, &end)?;
        Ok(Frame { units, start, end })
    }

    fn frame_bound(
        &mut self,
        bound: &ast::WindowFrameBound,
        units: FrameUnits,
        order_by: &[SortKey],
        scope: &Scope,
    ) -> Result<FrameBound, PlanError> {
        Ok(match bound {
            ast::WindowFrameBound::CurrentRow => FrameBound::CurrentRow,
            ast::WindowFrameBound::Preceding(None) => FrameBound::UnboundedPreceding,
            ast::WindowFrameBound::Following(None) => FrameBound::UnboundedFollowing,
            ast::WindowFrameBound::Preceding(Some(offset)) => {
                FrameBound::Preceding(self.frame_offset(offset, units, order_by, scope)?)
            }
            ast::WindowFrameBound::Following(Some(offset)) => {
                FrameBound::Following(self.frame_offset(offset, units, order_by, scope)?)
            }
        })
    }

    fn frame_offset(
        &mut self,
        offset: &ast::Expr,
        units: FrameUnits,
        order_by: &[SortKey],
        scope: &Scope,
    ) -> Result<Datum, PlanError> {
        let bound = self.bind_expr(offset, scope, Clause::Window)?;
        let position = bound.position;
        let ty = match units {
            FrameUnits::Rows | FrameUnits::Groups => SqlType::Int8,
            FrameUnits::Range => match order_by {
                [key] => match key.expr.ty.ty {
                    SqlType::Date
                    | SqlType::Timestamp
                    | SqlType::Timestamptz
                    | SqlType::Time
                    | SqlType::Interval => SqlType::Interval,
                    other => other,
                },
                _ => {
                    return Err(PlanError::new(
                        PlanErrorKind::Windowing,
                        "RANGE with offset PRECEDING/FOLLOWING requires exactly one ORDER BY column",
                    )
                    .at(position));
                }
            },
        };
        let bound = self.coerce(bound, TypeMod::plain(ty), CastContext::Implicit)?;
        match bound.kind {
            Kind::Literal(Datum::Null) => Err(PlanError::new(
                PlanErrorKind::Value(ValueErrorKind::NullNotAllowed),
                "frame starting offset must not be null",
            )
            .at(position)),
            Kind::Literal(value) => Ok(value),
            _ => Err(PlanError::unsupported(
                "frame offsets that are not constants are not supported",
                "Write the number into the statement.",
            )
            .at(position)),
        }
    }

    /// Computes the window functions of `exprs`, which then name the results.
    pub(super) fn windows(
        &mut self,
        plan: LogicalPlan,
        exprs: &mut [&mut TypedExpr],
    ) -> Result<LogicalPlan, PlanError> {
        let mut calls: Vec<TypedExpr> = Vec::new();
        for expr in exprs.iter() {
            collect(expr, &mut calls);
        }
        let originals = calls.clone();
        let mut inputs: Vec<&mut TypedExpr> = Vec::new();
        for call in &mut calls {
            inputs.extend(call.children_mut());
        }
        let plan = self.project_subqueries(plan, &mut inputs)?;
        let mut parts: Vec<Expr> = Vec::new();
        let mut finished = Vec::new();
        for expr in &calls {
            let Kind::Window(call) = &expr.kind else { continue };
            let lowered = lower_window(call).map_err(|error| error.at(expr.position))?;
            let mut columns = Vec::new();
            for part in &lowered.parts {
                let name = part.schema_name().to_string();
                if !parts.contains(part) {
                    parts.push(part.clone());
                }
                columns.push(Expr::Column(Column::from_name(name)));
            }
            finished.push(lowered.finish(columns));
        }
        let plan = LogicalPlanBuilder::window_plan(plan, parts).map_err(engine_error)?;
        for expr in exprs.iter_mut() {
            replace(expr, &originals, &finished);
        }
        Ok(plan)
    }
}

fn check_bounds(start: &FrameBound, end: &FrameBound) -> Result<(), PlanError> {
    let rank = |bound: &FrameBound| match bound {
        FrameBound::UnboundedPreceding => 0,
        FrameBound::Preceding(_) => 1,
        FrameBound::CurrentRow => 2,
        FrameBound::Following(_) => 3,
        FrameBound::UnboundedFollowing => 4,
    };
    let message = match (start, end) {
        (FrameBound::UnboundedFollowing, _) => "frame start cannot be UNBOUNDED FOLLOWING",
        (_, FrameBound::UnboundedPreceding) => "frame end cannot be UNBOUNDED PRECEDING",
        (FrameBound::CurrentRow, FrameBound::Preceding(_)) => {
            "frame starting from current row cannot have preceding rows"
        }
        (FrameBound::Following(_), _) if rank(end) < 3 => {
            "frame starting from following row cannot have preceding rows"
        }
        _ => return Ok(()),
    };
    Err(PlanError::new(PlanErrorKind::Windowing, message))
}

fn collect(expr: &TypedExpr, calls: &mut Vec<TypedExpr>) {
    if matches!(expr.kind, Kind::Window(_)) {
        if !calls.iter().any(|call| call.same(expr)) {
            calls.push(expr.clone());
        }
        return;
    }
    expr.children().into_iter().for_each(|child| collect(child, calls));
}

fn replace(expr: &mut TypedExpr, originals: &[TypedExpr], finished: &[Expr]) {
    if matches!(expr.kind, Kind::Window(_)) {
        if let Some(index) = originals.iter().position(|call| call.same(expr)) {
            expr.kind = Kind::Plan(finished[index].clone());
        }
        return;
    }
    expr.children_mut().into_iter().for_each(|child| replace(child, originals, finished));
}

fn lower_window(call: &WindowCall) -> Result<functions::LoweredAggregate, PlanError> {
    let args = call
        .args
        .iter()
        .map(|arg| Ok((lower(arg)?, arg.ty)))
        .collect::<Result<Vec<_>, PlanError>>()?;
    let filter = match &call.filter {
        Some(filter) => Some(lower(filter)?),
        None => None,
    };
    let partition_by = call.partition_by.iter().map(key).collect::<Result<Vec<_>, _>>()?;
    let order_by = call
        .order_by
        .iter()
        .map(|sort| Ok(SortExpr::new(key(&sort.expr)?, sort.ascending, sort.nulls_first)))
        .collect::<Result<Vec<_>, PlanError>>()?;
    let frame = lower_frame(&call.frame, &call.order_by)?;
    Ok(functions::window(&call.call, args, filter, LoweredSpec { partition_by, order_by, frame })?)
}

fn lower_frame(frame: &Frame, order_by: &[SortKey]) -> Result<EngineFrame, PlanError> {
    let units = match frame.units {
        FrameUnits::Rows => EngineUnits::Rows,
        FrameUnits::Range => EngineUnits::Range,
        FrameUnits::Groups => EngineUnits::Groups,
    };
    let whole = matches!(
        (&frame.start, &frame.end),
        (FrameBound::UnboundedPreceding, FrameBound::UnboundedFollowing)
    );
    // Without an order all rows are peers, whatever the frame.
    if whole || (order_by.is_empty() && frame.units == FrameUnits::Range) {
        return Ok(EngineFrame::new_bounds(
            EngineUnits::Rows,
            EngineBound::Preceding(ScalarValue::UInt64(None)),
            EngineBound::Following(ScalarValue::UInt64(None)),
        ));
    }
    let null = match (frame.units, order_by) {
        (FrameUnits::Range, [only]) => offset_null(&key(&only.expr)?, only.expr.ty)?,
        _ => ScalarValue::UInt64(None),
    };
    let bound = |bound: &FrameBound| {
        Ok::<_, PlanError>(match bound {
            FrameBound::UnboundedPreceding => EngineBound::Preceding(null.clone()),
            FrameBound::UnboundedFollowing => EngineBound::Following(null.clone()),
            FrameBound::CurrentRow => EngineBound::CurrentRow,
            FrameBound::Preceding(value) => {
                EngineBound::Preceding(offset(value, frame.units, order_by)?)
            }
            FrameBound::Following(value) => {
                EngineBound::Following(offset(value, frame.units, order_by)?)
            }
        })
    };
    Ok(EngineFrame::new_bounds(units, bound(&frame.start)?, bound(&frame.end)?))
}

/// An unbounded end of a RANGE frame; its type is not looked at.
fn offset_null(_key: &Expr, _ty: TypeMod) -> Result<ScalarValue, PlanError> {
    Ok(ScalarValue::UInt64(None))
}

fn offset(
    value: &Datum,
    units: FrameUnits,
    order_by: &[SortKey],
) -> Result<ScalarValue, PlanError> {
    let negative = || {
        PlanError::new(
            PlanErrorKind::Value(ValueErrorKind::InvalidArgument),
            "frame starting offset must not be negative",
        )
    };
    match (units, value) {
        (FrameUnits::Rows | FrameUnits::Groups, Datum::Int8(count)) => {
            let count = u64::try_from(*count).map_err(|_| negative())?;
            Ok(ScalarValue::UInt64(Some(count)))
        }
        (FrameUnits::Range, value) => {
            let Some(sort) = order_by.first() else {
                return Err(PlanError::new(PlanErrorKind::Internal, "RANGE without order"));
            };
            if key(&sort.expr)? != lower(&sort.expr)? || !has_distance(sort.expr.ty.ty) {
                return Err(PlanError::unsupported(
                    format!(
                        "RANGE with offset PRECEDING/FOLLOWING is not supported for column type {}",
                        sort.expr.ty.ty.sql_name()
                    ),
                    "Use ROWS or GROUPS, or cast the column.",
                ));
            }
            let ty = match value {
                Datum::Interval(_) => SqlType::Interval,
                _ => sort.expr.ty.ty,
            };
            let array = array_from_datums(ty, std::slice::from_ref(value))?;
            ScalarValue::try_from_array(&array, 0).map_err(engine_error)
        }
        _ => Err(PlanError::new(PlanErrorKind::Internal, "frame offset of a wrong type")),
    }
}

/// Types on whose Arrow form DataFusion can step by an offset.
fn has_distance(ty: SqlType) -> bool {
    matches!(
        ty,
        SqlType::Int2
            | SqlType::Int4
            | SqlType::Int8
            | SqlType::Float4
            | SqlType::Float8
            | SqlType::Date
            | SqlType::Timestamp
            | SqlType::Timestamptz
    )
}
