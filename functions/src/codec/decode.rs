//! Bytes to a plan.
//!
//! The counterpart of `encode`: datafusion-proto makes an operator or expression of its message and asks here for its
//! children, which must be references to earlier nodes that nobody has referred to yet. So the result is a tree of no more
//! nodes than the message has, whatever the bytes say.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::{
    error::Result,
    execution::{TaskContext, config::SessionConfig, runtime_env::RuntimeEnv},
    logical_expr::{Signature, TypeSignature},
    physical_expr::{
        ScalarFunctionExpr,
        expressions::{CastExpr, Literal},
    },
    physical_plan::{ExecutionPlan, PhysicalExpr, aggregates::AggregateExec},
};
use datafusion_proto::{
    physical_plan::{
        PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
    },
    protobuf::{
        self, PhysicalExprNode, PhysicalExtensionExprNode, PhysicalPlanNode,
        physical_expr_node::ExprType, physical_plan_node::PhysicalPlanType,
    },
};
use prost::Message;

use super::{
    CodecError, EXPRESSION_DEPTH_MAX, PLAN_DEPTH_MAX, STACK_GROWTH, STACK_RED_ZONE, constant,
    encode::NameCodec,
    frame::{Nodes, malformed},
    kinds::{self, CAST_TO_FIELD, CONSTANT, REFERENCE, ROWS, SCAN},
    names, rows, scan,
};
use crate::session::{self, EvalContext};

/// The plan of which these are the nodes.
pub(super) fn decode(
    nodes: &Nodes<&[u8]>,
    context: &Arc<EvalContext>,
) -> Result<Arc<dyn ExecutionPlan>, CodecError> {
    let Some(root) = nodes.plans.len().checked_sub(1) else {
        return Err(malformed("it has no operator"));
    };
    // Making these takes longer than decoding a small plan. Nothing is run here, so nothing in them is used up.
    static CONFIG: LazyLock<SessionConfig> = LazyLock::new(SessionConfig::new);
    static RUNTIME: LazyLock<Arc<RuntimeEnv>> = LazyLock::new(Arc::default);
    let mut config = CONFIG.clone();
    session::install(config.options_mut(), context.clone());
    let task = TaskContext::new(
        None,
        String::new(),
        config,
        HashMap::new(),
        HashMap::new(),
        HashMap::new(),
        HashMap::new(),
        RUNTIME.clone(),
    );
    let decoder = Decoder {
        plans: RefCell::new(nodes.plans.iter().copied().map(Some).collect()),
        expressions: RefCell::new(nodes.expressions.iter().copied().map(Some).collect()),
        plan_depth: Cell::new(0),
        expression_depth: Cell::new(0),
    };
    let plan = decoder.plan(root, &PhysicalPlanDecodeContext::new(&task, &NameCodec))?;
    let is_left = |list: &RefCell<Vec<Option<&[u8]>>>| list.borrow().iter().any(Option::is_some);
    if is_left(&decoder.plans) || is_left(&decoder.expressions) {
        return Err(malformed("a part of it belongs nowhere"));
    }
    Ok(plan)
}

struct Decoder<'a> {
    /// Nodes that nobody has referred to yet.
    plans: RefCell<Vec<Option<&'a [u8]>>>,
    expressions: RefCell<Vec<Option<&'a [u8]>>>,
    plan_depth: Cell<usize>,
    expression_depth: Cell<usize>,
}

/// One level deeper; ends when dropped.
struct Level<'a> {
    depth: &'a Cell<usize>,
    levels: usize,
}

impl<'a> Level<'a> {
    fn enter(depth: &'a Cell<usize>, levels: usize, limit: usize) -> Result<Level<'a>, CodecError> {
        let deeper = depth.get().saturating_add(levels);
        if deeper > limit {
            return Err(CodecError::TooDeep { limit });
        }
        depth.set(deeper);
        Ok(Level { depth, levels })
    }
}

impl Drop for Level<'_> {
    fn drop(&mut self) {
        self.depth.set(self.depth.get().saturating_sub(self.levels));
    }
}

/// Takes the node out, so that it has one parent.
fn take<'a>(nodes: &RefCell<Vec<Option<&'a [u8]>>>, number: usize) -> Result<&'a [u8], CodecError> {
    let mut nodes = nodes.borrow_mut();
    let node = nodes.get_mut(number).and_then(Option::take);
    node.ok_or_else(|| malformed("a reference to no node, or to one that has its place"))
}

/// The number in a reference.
fn referred(extension: &[u8]) -> Result<usize, CodecError> {
    let no_reference = || malformed("a child that is no reference");
    let (REFERENCE, number) =
        extension.split_first().map(|(tag, rest)| (*tag, rest)).ok_or_else(no_reference)?
    else {
        return Err(no_reference());
    };
    let number: [u8; 4] = number.try_into().map_err(|_| no_reference())?;
    usize::try_from(u32::from_le_bytes(number)).map_err(|_| no_reference())
}

impl Decoder<'_> {
    fn plan(
        &self,
        number: usize,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let _level = Level::enter(&self.plan_depth, 1, PLAN_DEPTH_MAX)?;
        let message = take(&self.plans, number)?;
        let node = PhysicalPlanNode::decode(message).map_err(|e| malformed(e.to_string()))?;
        kinds::check_plan(&node)?;
        if let Some(PhysicalPlanType::Extension(extension)) = &node.physical_plan_type {
            return match extension.node.split_first() {
                Some((&SCAN, bytes)) => Ok(Arc::new(scan::decode(bytes)?)),
                Some((&ROWS, bytes)) => Ok(Arc::new(rows::decode(bytes)?)),
                _ => Err(malformed("an operator of no known kind").into()),
            };
        }
        let plan = stacker::maybe_grow(STACK_RED_ZONE, STACK_GROWTH, || {
            self.default_proto_to_execution_plan(&node, ctx)
        })?;
        check_aggregate(plan.as_ref())?;
        Ok(plan)
    }

    fn expression(
        &self,
        number: usize,
        schema: &Schema,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let message = take(&self.expressions, number)?;
        let node = PhysicalExprNode::decode(message).map_err(|e| malformed(e.to_string()))?;
        kinds::check_expression(&node)?;
        if let Some(ExprType::Extension(cast)) = &node.expr_type {
            let _level = Level::enter(&self.expression_depth, 1, EXPRESSION_DEPTH_MAX)?;
            return stacker::maybe_grow(STACK_RED_ZONE, STACK_GROWTH, || {
                self.cast(cast, schema, ctx)
            });
        }
        // A chain of one operator is one message, but as deep as it is long.
        let levels = match &node.expr_type {
            Some(ExprType::BinaryExpr(chain)) => chain.operands.len().max(1),
            Some(_) | None => 1,
        };
        let _level = Level::enter(&self.expression_depth, levels, EXPRESSION_DEPTH_MAX)?;
        let expression = stacker::maybe_grow(STACK_RED_ZONE, STACK_GROWTH, || {
            self.default_proto_to_physical_expr(&node, schema, ctx)
        })?;
        if let Some(call) = expression.downcast_ref::<ScalarFunctionExpr>() {
            check_call(call, schema)?;
        }
        Ok(expression)
    }

    fn cast(
        &self,
        cast: &PhysicalExtensionExprNode,
        schema: &Schema,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let (Some((&CAST_TO_FIELD, field)), [input]) = (cast.expr.split_first(), &cast.inputs[..])
        else {
            return Err(malformed("an expression of no known kind").into());
        };
        let field = protobuf::Field::decode(field).map_err(|e| malformed(e.to_string()))?;
        let field = Field::try_from(&field).map_err(|e| malformed(format!("a field: {e}")))?;
        let input = self.proto_to_physical_expr(input, schema, ctx)?;
        Ok(Arc::new(CastExpr::new_with_target_field(input, Arc::new(field), None)))
    }
}

impl PhysicalProtoConverterExtension for Decoder<'_> {
    /// A child: always a reference.
    fn proto_to_execution_plan(
        &self,
        proto: &PhysicalPlanNode,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match &proto.physical_plan_type {
            Some(PhysicalPlanType::Extension(extension)) if extension.inputs.is_empty() => {
                self.plan(referred(&extension.node)?, ctx)
            }
            Some(_) | None => Err(malformed("an operator inside of another").into()),
        }
    }

    /// A child: a reference, a column or a constant.
    fn proto_to_physical_expr(
        &self,
        proto: &PhysicalExprNode,
        schema: &Schema,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        match &proto.expr_type {
            Some(ExprType::Column(column)) => {
                let known =
                    usize::try_from(column.index).is_ok_and(|index| index < schema.fields().len());
                if !known {
                    return Err(malformed("a column that its input does not have").into());
                }
                self.default_proto_to_physical_expr(proto, schema, ctx)
            }
            Some(ExprType::Literal(value)) => {
                Ok(Arc::new(Literal::new(constant::decode_plain(value)?)))
            }
            Some(ExprType::Extension(extension)) if extension.inputs.is_empty() => {
                match extension.expr.split_first() {
                    Some((&CONSTANT, bytes)) => {
                        Ok(Arc::new(Literal::new(constant::decode_nested(bytes)?)))
                    }
                    _ => self.expression(referred(&extension.expr)?, schema, ctx),
                }
            }
            Some(_) | None => Err(malformed("an expression inside of another").into()),
        }
    }

    fn execution_plan_to_proto(
        &self,
        _plan: &Arc<dyn ExecutionPlan>,
        _codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalPlanNode> {
        Err(malformed("a decoder does not encode").into())
    }

    fn physical_expr_to_proto(
        &self,
        _expression: &Arc<dyn PhysicalExpr>,
        _codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalExprNode> {
        Err(malformed("a decoder does not encode").into())
    }
}

/// Kernels index their arguments and trust the announced type of their result.
fn check_call(call: &ScalarFunctionExpr, schema: &Schema) -> Result<(), CodecError> {
    let wrong = || malformed(format!("a wrong call of {}", call.name()));
    if !takes(call.fun().signature(), call.args().len()) {
        return Err(wrong());
    }
    if names::is_ours(call.fun()) {
        let types: Vec<DataType> =
            call.args().iter().map(|arg| arg.data_type(schema)).collect::<Result<_>>()?;
        if call.fun().inner().return_type(&types)? != *call.return_type() {
            return Err(wrong());
        }
    }
    Ok(())
}

fn check_aggregate(plan: &dyn ExecutionPlan) -> Result<(), CodecError> {
    let Some(aggregate) = plan.downcast_ref::<AggregateExec>() else { return Ok(()) };
    for call in aggregate.aggr_expr() {
        if !takes(call.fun().signature(), call.expressions().len()) {
            return Err(malformed(format!("a wrong call of {}", call.fun().name())));
        }
    }
    Ok(())
}

/// Whether a function of this signature takes so many arguments. The engine's own check theirs when they run.
fn takes(signature: &Signature, n_args: usize) -> bool {
    match &signature.type_signature {
        TypeSignature::Any(n) => *n == n_args,
        TypeSignature::Nullary => n_args == 0,
        _ => n_args > 0,
    }
}
