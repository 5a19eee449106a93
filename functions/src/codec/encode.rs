//! A plan to bytes.
//!
//! datafusion-proto makes the message of each operator and expression and asks here for those of its children; what it gets is
//! a reference to the child's own entry. Leaves that are as small as a reference stay in their parent.

use std::{cell::RefCell, sync::Arc};

use datafusion::{
    common::format::DEFAULT_CAST_OPTIONS,
    error::{DataFusionError, Result},
    execution::TaskContext,
    logical_expr::{AggregateUDF, ScalarUDF, WindowUDF},
    physical_expr::expressions::{CastExpr, Column, Literal},
    physical_plan::{ExecutionPlan, PhysicalExpr},
};
use datafusion_proto::{
    physical_plan::{
        PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalPlanNodeExt,
        PhysicalProtoConverterExtension, to_proto::serialize_physical_expr_with_converter,
    },
    protobuf::{
        self, PhysicalExprNode, PhysicalExtensionExprNode, PhysicalExtensionNode, PhysicalPlanNode,
        physical_expr_node::ExprType, physical_plan_node::PhysicalPlanType,
    },
};
use prost::Message;

use super::{
    BYTES_MAX, CodecError, EXPRESSION_DEPTH_MAX, NODES_MAX, PLAN_DEPTH_MAX, STACK_GROWTH,
    STACK_RED_ZONE, constant,
    frame::{Nodes, malformed},
    kinds::{self, CAST_TO_FIELD, REFERENCE, ROWS, SCAN},
    names, rows, scan,
};
use crate::{broadcast_rows::BroadcastRowsExec, table_scan::TableScanExec};

/// The nodes of a plan.
pub(super) fn encode(plan: &Arc<dyn ExecutionPlan>) -> Result<Nodes<Vec<u8>>, CodecError> {
    let encoder = Encoder::default();
    encoder.execution_plan_to_proto(plan, &NameCodec)?;
    Ok(encoder.state.into_inner().nodes)
}

#[derive(Default)]
struct Encoder {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    nodes: Nodes<Vec<u8>>,
    bytes: usize,
    plan_depth: usize,
    expression_depth: usize,
}

impl State {
    fn count(&mut self, bytes: usize) -> Result<(), CodecError> {
        self.bytes += bytes;
        if self.nodes.plans.len() + self.nodes.expressions.len() >= NODES_MAX {
            return Err(CodecError::TooManyNodes);
        }
        if self.bytes > BYTES_MAX {
            return Err(CodecError::TooBig { bytes: self.bytes });
        }
        Ok(())
    }
}

/// An extension that says: the node with this number.
fn reference(number: usize) -> Vec<u8> {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    [&[REFERENCE][..], &number.to_le_bytes()].concat()
}

impl Encoder {
    fn plan(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<PhysicalPlanNode> {
        let node =
            PhysicalPlanNode::try_from_physical_plan_with_converter(plan.clone(), &NameCodec, self);
        let node =
            kinds::without_run_state(node.map_err(|error| match CodecError::from(error) {
                CodecError::Malformed(why) if why.contains("Unsupported plan") => {
                    CodecError::Operator(kinds::operator_name(plan.as_ref()))
                }
                other => other,
            })?);
        kinds::check_plan(&node)?;
        let mut state = self.state.borrow_mut();
        let message = node.encode_to_vec();
        state.count(message.len())?;
        state.nodes.plans.push(message);
        let number = state.nodes.plans.len() - 1;
        let extension = PhysicalExtensionNode { node: reference(number), inputs: vec![] };
        Ok(PhysicalPlanNode { physical_plan_type: Some(PhysicalPlanType::Extension(extension)) })
    }

    fn expression(&self, expression: &Arc<dyn PhysicalExpr>) -> Result<PhysicalExprNode> {
        let node = match expression.downcast_ref::<CastExpr>() {
            Some(cast) => self.cast(expression, cast),
            None => serialize_physical_expr_with_converter(expression, &NameCodec, self),
        };
        let node = node.map_err(|error| match CodecError::from(error) {
            CodecError::Malformed(_) => CodecError::Expression(expression.to_string()),
            other => other,
        })?;
        kinds::check_expression(&node)?;
        let mut state = self.state.borrow_mut();
        let message = node.encode_to_vec();
        state.count(message.len())?;
        state.nodes.expressions.push(message);
        let number = state.nodes.expressions.len() - 1;
        Ok(extension_expression(reference(number)))
    }
}

impl Encoder {
    /// datafusion-proto sends the type alone, and not the nullability that a cast may state.
    fn cast(
        &self,
        expression: &Arc<dyn PhysicalExpr>,
        cast: &CastExpr,
    ) -> Result<PhysicalExprNode> {
        if *cast.cast_options() != DEFAULT_CAST_OPTIONS {
            return Err(CodecError::Expression(expression.to_string()).into());
        }
        if cast.target_nullable().is_none() {
            return serialize_physical_expr_with_converter(expression, &NameCodec, self);
        }
        let field: protobuf::Field = cast
            .target_field()
            .as_ref()
            .try_into()
            .map_err(|error| malformed(format!("a field: {error}")))?;
        let expr = [&[CAST_TO_FIELD][..], &field.encode_to_vec()].concat();
        let inputs = vec![self.physical_expr_to_proto(cast.expr(), &NameCodec)?];
        let extension = PhysicalExtensionExprNode { expr, inputs };
        Ok(PhysicalExprNode { expr_id: None, expr_type: Some(ExprType::Extension(extension)) })
    }
}

fn extension_expression(expr: Vec<u8>) -> PhysicalExprNode {
    let extension = PhysicalExtensionExprNode { expr, inputs: vec![] };
    PhysicalExprNode { expr_id: None, expr_type: Some(ExprType::Extension(extension)) }
}

impl PhysicalProtoConverterExtension for Encoder {
    fn execution_plan_to_proto(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        _codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalPlanNode> {
        self.state.borrow_mut().plan_depth += 1;
        if self.state.borrow().plan_depth > PLAN_DEPTH_MAX {
            return Err(CodecError::TooDeep { limit: PLAN_DEPTH_MAX }.into());
        }
        let node = stacker::maybe_grow(STACK_RED_ZONE, STACK_GROWTH, || self.plan(plan))?;
        self.state.borrow_mut().plan_depth -= 1;
        Ok(node)
    }

    fn physical_expr_to_proto(
        &self,
        expression: &Arc<dyn PhysicalExpr>,
        _codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalExprNode> {
        if kinds::is_run_state(expression.as_ref()) {
            // Left out of its operator again by `without_run_state`; anywhere else it would be refused on arrival.
            return Ok(PhysicalExprNode { expr_id: None, expr_type: None });
        }
        if let Some(literal) = expression.downcast_ref::<Literal>() {
            let node = match constant::encode(literal.value())? {
                constant::Encoded::Plain(value) => {
                    PhysicalExprNode { expr_id: None, expr_type: Some(ExprType::Literal(value)) }
                }
                constant::Encoded::Nested(bytes) => extension_expression(bytes),
            };
            self.state.borrow_mut().count(node.encoded_len())?;
            return Ok(node);
        }
        if expression.is::<Column>() {
            return serialize_physical_expr_with_converter(expression, &NameCodec, self);
        }
        self.state.borrow_mut().expression_depth += 1;
        if self.state.borrow().expression_depth > EXPRESSION_DEPTH_MAX {
            return Err(CodecError::TooDeep { limit: EXPRESSION_DEPTH_MAX }.into());
        }
        let node =
            stacker::maybe_grow(STACK_RED_ZONE, STACK_GROWTH, || self.expression(expression))?;
        self.state.borrow_mut().expression_depth -= 1;
        Ok(node)
    }

    fn proto_to_execution_plan(
        &self,
        _proto: &PhysicalPlanNode,
        _ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Err(malformed("an encoder does not decode").into())
    }

    fn proto_to_physical_expr(
        &self,
        _proto: &PhysicalExprNode,
        _input_schema: &datafusion::arrow::datatypes::Schema,
        _ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        Err(malformed("an encoder does not decode").into())
    }
}

/// What datafusion-proto asks for: table scans, and the names of functions.
#[derive(Debug)]
pub(super) struct NameCodec;

impl PhysicalExtensionCodec for NameCodec {
    fn try_decode(
        &self,
        _buf: &[u8],
        _inputs: &[Arc<dyn ExecutionPlan>],
        _ctx: &TaskContext,
        _proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Err(malformed("an operator of no known kind").into())
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        _proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        if let Some(sent) = node.downcast_ref::<BroadcastRowsExec>() {
            buf.push(ROWS);
            return rows::encode(sent, buf).map_err(DataFusionError::from);
        }
        let Some(table) = node.downcast_ref::<TableScanExec>() else {
            return Err(CodecError::Operator(kinds::operator_name(node.as_ref())).into());
        };
        buf.push(SCAN);
        scan::encode(table, buf).map_err(DataFusionError::from)
    }

    fn try_encode_udf(&self, node: &ScalarUDF, buf: &mut Vec<u8>) -> Result<()> {
        Ok(names::encode_scalar(node, buf)?)
    }

    fn try_decode_udf(&self, name: &str, buf: &[u8]) -> Result<Arc<ScalarUDF>> {
        Ok(names::decode_scalar(name, buf)?)
    }

    fn try_encode_udaf(&self, node: &AggregateUDF, buf: &mut Vec<u8>) -> Result<()> {
        Ok(names::encode_aggregate(node, buf)?)
    }

    fn try_decode_udaf(&self, name: &str, buf: &[u8]) -> Result<Arc<AggregateUDF>> {
        Ok(names::decode_aggregate(name, buf)?)
    }

    fn try_encode_udwf(&self, node: &WindowUDF, buf: &mut Vec<u8>) -> Result<()> {
        Ok(names::encode_window(node, buf)?)
    }

    fn try_decode_udwf(&self, name: &str, buf: &[u8]) -> Result<Arc<WindowUDF>> {
        Ok(names::decode_window(name, buf)?)
    }
}
