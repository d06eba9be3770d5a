//! One ONNX node as an operator's lowering sees it: resolved inputs, attributes and opset version.

use super::lower::{OpError, OpResult};
use super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto::AttributeType};
use super::value::Val;
use std::collections::BTreeMap;

/// Attributes by name, references to a function's attributes already resolved.
pub(super) type Attributes<'m> = BTreeMap<&'m str, &'m AttributeProto>;

/// One node during import.
pub(super) struct Node<'m> {
    pub(super) proto: &'m NodeProto,
    pub(super) attributes: Attributes<'m>,
    pub(super) inputs: Vec<Option<Val>>,
    /// Version of the node's operator set.
    pub(super) version: i64,
}

impl<'m> Node<'m> {
    pub(super) fn op(&self) -> &'m str {
        self.proto.op_type()
    }

    /// A required input.
    pub(super) fn input(&self, i: usize) -> OpResult<&Val> {
        self.optional(i).ok_or_else(|| OpError::Invalid(format!("input {i} is missing")))
    }

    pub(super) fn optional(&self, i: usize) -> Option<&Val> {
        self.inputs.get(i).and_then(Option::as_ref)
    }

    /// All inputs of a variadic operator.
    pub(super) fn variadic(&self) -> OpResult<Vec<&Val>> {
        if self.inputs.is_empty() {
            return Err(OpError::Invalid("has no inputs".into()));
        }
        (0..self.inputs.len()).map(|i| self.input(i)).collect()
    }

    /// Whether output `i` is asked for.
    pub(super) fn wants(&self, i: usize) -> bool {
        self.proto.output.get(i).is_some_and(|name| !name.is_empty())
    }

    fn attribute(&self, name: &str, kind: AttributeType) -> OpResult<Option<&'m AttributeProto>> {
        let Some(a) = self.attributes.get(name) else { return Ok(None) };
        // Files older than IR version 3 leave the type out.
        if a.r#type() != kind && a.r#type() != AttributeType::Undefined {
            let found = a.r#type().as_str_name();
            return Err(OpError::Invalid(format!("attribute `{name}` is {found}, expected {}", kind.as_str_name())));
        }
        Ok(Some(a))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.attributes.contains_key(name)
    }

    pub(super) fn maybe_int(&self, name: &str) -> OpResult<Option<i64>> {
        Ok(self.attribute(name, AttributeType::Int)?.map(AttributeProto::i))
    }

    pub(super) fn int(&self, name: &str, default: i64) -> OpResult<i64> {
        Ok(self.maybe_int(name)?.unwrap_or(default))
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> OpResult<bool> {
        Ok(self.int(name, i64::from(default))? != 0)
    }

    pub(super) fn maybe_float(&self, name: &str) -> OpResult<Option<f64>> {
        Ok(self.attribute(name, AttributeType::Float)?.map(|a| f64::from(a.f())))
    }

    pub(super) fn float(&self, name: &str, default: f32) -> OpResult<f64> {
        Ok(self.maybe_float(name)?.unwrap_or(f64::from(default)))
    }

    pub(super) fn maybe_string(&self, name: &str) -> OpResult<Option<&'m str>> {
        let Some(a) = self.attribute(name, AttributeType::String)? else { return Ok(None) };
        utf8(name, a.s.as_deref().unwrap_or_default()).map(Some)
    }

    pub(super) fn string(&self, name: &str, default: &'m str) -> OpResult<&'m str> {
        Ok(self.maybe_string(name)?.unwrap_or(default))
    }

    pub(super) fn ints(&self, name: &str) -> OpResult<Option<&'m [i64]>> {
        Ok(self.attribute(name, AttributeType::Ints)?.map(|a| a.ints.as_slice()))
    }

    pub(super) fn floats(&self, name: &str) -> OpResult<Option<&'m [f32]>> {
        Ok(self.attribute(name, AttributeType::Floats)?.map(|a| a.floats.as_slice()))
    }

    pub(super) fn strings(&self, name: &str) -> OpResult<Option<Vec<&'m str>>> {
        let Some(a) = self.attribute(name, AttributeType::Strings)? else { return Ok(None) };
        a.strings.iter().map(|s| utf8(name, s)).collect::<OpResult<_>>().map(Some)
    }

    pub(super) fn tensor(&self, name: &str) -> OpResult<Option<&'m TensorProto>> {
        Ok(self.attribute(name, AttributeType::Tensor)?.and_then(|a| a.t.as_ref()))
    }

    /// A required subgraph.
    pub(super) fn graph(&self, name: &str) -> OpResult<&'m GraphProto> {
        self.attribute(name, AttributeType::Graph)?
            .and_then(|a| a.g.as_ref())
            .ok_or_else(|| OpError::Invalid(format!("attribute `{name}` is missing")))
    }
}

fn utf8<'m>(name: &str, bytes: &'m [u8]) -> OpResult<&'m str> {
    std::str::from_utf8(bytes).map_err(|_| OpError::Invalid(format!("attribute `{name}` is not UTF-8")))
}
