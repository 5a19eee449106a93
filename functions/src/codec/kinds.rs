//! Which operators and expressions may travel.
//!
//! What the planner's rules put into fragments (`planner::rules`), and nothing else that datafusion-proto knows: it could also
//! read and write files. A kind that is missing here is an error on both sides.

use datafusion::{
    physical_expr::expressions::DynamicFilterPhysicalExpr,
    physical_plan::{ExecutionPlan, PhysicalExpr},
};
use datafusion_proto::protobuf::{
    PhysicalExprNode, PhysicalPlanNode, physical_expr_node::ExprType,
    physical_plan_node::PhysicalPlanType,
};

use super::CodecError;

/// First byte of an extension that is a reference to a node: the number follows.
pub(super) const REFERENCE: u8 = 0;

/// First byte of an extension that is a table scan.
pub(super) const SCAN: u8 = 1;

/// First byte of an extension that is a nested constant.
pub(super) const CONSTANT: u8 = 2;

/// First byte of an extension that is a cast to a field: the field follows, its input is the one input.
pub(super) const CAST_TO_FIELD: u8 = 3;

/// First byte of an extension that is the rows of a broadcast.
pub(super) const ROWS: u8 = 4;

/// Whether a message of this kind may be made, or made a plan of.
pub(super) fn check_plan(node: &PhysicalPlanNode) -> Result<(), CodecError> {
    let Some(kind) = &node.physical_plan_type else {
        return Err(CodecError::Malformed("an operator without a kind".to_owned()));
    };
    let known = matches!(
        kind,
        PhysicalPlanType::Projection(_)
            | PhysicalPlanType::Filter(_)
            | PhysicalPlanType::Aggregate(_)
            | PhysicalPlanType::Sort(_)
            | PhysicalPlanType::LocalLimit(_)
            | PhysicalPlanType::GlobalLimit(_)
            | PhysicalPlanType::HashJoin(_)
            | PhysicalPlanType::NestedLoopJoin(_)
            | PhysicalPlanType::CrossJoin(_)
            | PhysicalPlanType::Window(_)
            | PhysicalPlanType::Unnest(_)
            | PhysicalPlanType::Cooperative(_)
            | PhysicalPlanType::Merge(_)
            | PhysicalPlanType::SortPreservingMerge(_)
            | PhysicalPlanType::Extension(_)
    );
    if let PhysicalPlanType::Aggregate(aggregate) = kind
        && aggregate.group_expr.is_empty()
        && !aggregate.groups.is_empty()
    {
        return Err(CodecError::Malformed("groups of no expressions".to_owned()));
    }
    if known { Ok(()) } else { Err(CodecError::Operator(name_of(kind))) }
}

/// Whether an expression of this kind may be made, or made one of.
pub(super) fn check_expression(node: &PhysicalExprNode) -> Result<(), CodecError> {
    let Some(kind) = &node.expr_type else {
        return Err(CodecError::Malformed("an expression without a kind".to_owned()));
    };
    let known = matches!(
        kind,
        ExprType::Column(_)
            | ExprType::Literal(_)
            | ExprType::BinaryExpr(_)
            | ExprType::IsNullExpr(_)
            | ExprType::IsNotNullExpr(_)
            | ExprType::NotExpr(_)
            | ExprType::Negative(_)
            | ExprType::InList(_)
            | ExprType::Case(_)
            | ExprType::Cast(_)
            | ExprType::TryCast(_)
            | ExprType::ScalarUdf(_)
            | ExprType::LikeExpr(_)
            | ExprType::Extension(_)
    );
    if known { Ok(()) } else { Err(CodecError::Expression(name_of(kind))) }
}

/// The variant's name in a message's own words.
fn name_of(kind: &impl std::fmt::Debug) -> String {
    let text = format!("{kind:?}");
    text.chars().take_while(|c| c.is_alphanumeric()).collect()
}

/// What operators know of each other while they run does not travel: the receiving ones make their own.
pub(super) fn without_run_state(mut node: PhysicalPlanNode) -> PhysicalPlanNode {
    match &mut node.physical_plan_type {
        Some(PhysicalPlanType::Sort(sort)) => sort.dynamic_filter = None,
        Some(PhysicalPlanType::Aggregate(aggregate)) => aggregate.dynamic_filter = None,
        Some(PhysicalPlanType::HashJoin(join)) => join.dynamic_filter = None,
        Some(_) | None => {}
    }
    node
}

/// Whether the expression is such knowledge.
pub(super) fn is_run_state(expression: &dyn PhysicalExpr) -> bool {
    expression.is::<DynamicFilterPhysicalExpr>()
}

/// The operator's name for messages.
pub(super) fn operator_name(plan: &dyn ExecutionPlan) -> String {
    plan.name().to_owned()
}
