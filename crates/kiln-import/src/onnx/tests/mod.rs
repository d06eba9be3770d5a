//! Tests of the importer as a whole, on models written here.

mod half;
mod hostile;
mod lowering;
mod sampling;
mod structure;

use super::proto::*;
use super::{Options, import_bytes};
use crate::Result;
use attribute_proto::AttributeType;
use bytes::Bytes;
use kiln_graph::{Graph, Tensor};
use prost::Message;
use std::collections::BTreeMap;

/// A dimension of a test input.
pub(super) enum D {
    Size(i64),
    Name(&'static str),
}

pub(super) fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        name: Some(format!("{op}.{}", outputs[0])),
        input: inputs.iter().map(|&s| s.into()).collect(),
        output: outputs.iter().map(|&s| s.into()).collect(),
        attribute: attributes,
        ..NodeProto::default()
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind as i32), ..AttributeProto::default() }
}

pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i: Some(i), ..attribute(name, AttributeType::Int) }
}

pub(super) fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { f: Some(f), ..attribute(name, AttributeType::Float) }
}

pub(super) fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { ints: ints.to_vec(), ..attribute(name, AttributeType::Ints) }
}

pub(super) fn text(name: &str, s: &'static str) -> AttributeProto {
    AttributeProto { s: Some(Bytes::from_static(s.as_bytes())), ..attribute(name, AttributeType::String) }
}

pub(super) fn body(name: &str, g: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(g), ..attribute(name, AttributeType::Graph) }
}

pub(super) fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(tensor_proto::DataType::Float as i32),
        raw_data: Some(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        ..TensorProto::default()
    }
}

pub(super) fn longs(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(tensor_proto::DataType::Int64 as i32),
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

pub(super) fn info(name: &str, dtype: tensor_proto::DataType, dims: &[D]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dim = |d: &D| {
        let value = match d {
            D::Size(n) => Value::DimValue(*n),
            D::Name(s) => Value::DimParam((*s).into()),
        };
        Dimension { value: Some(value), ..Dimension::default() }
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(dtype as i32), shape: Some(shape) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.into()), r#type: Some(ty), ..ValueInfoProto::default() }
}

pub(super) fn f32_input(name: &str, dims: &[D]) -> ValueInfoProto {
    info(name, tensor_proto::DataType::Float, dims)
}

pub(super) fn graph(
    inputs: Vec<ValueInfoProto>,
    initializer: Vec<TensorProto>,
    nodes: Vec<NodeProto>,
    outputs: &[&str],
) -> GraphProto {
    let output = |name: &&str| ValueInfoProto { name: Some((*name).into()), ..ValueInfoProto::default() };
    GraphProto {
        name: Some("test".into()),
        input: inputs,
        initializer,
        node: nodes,
        output: outputs.iter().map(output).collect(),
        ..GraphProto::default()
    }
}

pub(super) fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) }
}

pub(super) fn model(graph: GraphProto) -> ModelProto {
    ModelProto { ir_version: Some(10), opset_import: vec![opset("", 21)], graph: Some(graph), ..ModelProto::default() }
}

pub(super) fn import(model: &ModelProto) -> Result<Graph> {
    import_bytes(model.encode_to_vec().into(), &Options::default())
}

/// Runs a graph on f32 or i64 tensors by input name.
pub(super) fn run(graph: &Graph, inputs: &[(&str, Tensor)]) -> Vec<Tensor> {
    let by_name: BTreeMap<&str, &Tensor> = inputs.iter().map(|(n, t)| (*n, t)).collect();
    let ordered: Vec<Tensor> = graph.inputs.iter().map(|&id| by_name[graph.value(id).name.as_str()].clone()).collect();
    kiln_graph::interpret(graph, &ordered).unwrap()
}

pub(super) fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(shape, values).unwrap()
}
