//! Graphviz output.

use crate::text::attributes;
use crate::{Graph, Op, OpKind};
use std::fmt::Write;

/// Longest attribute text shown in a box.
const MAX_LABEL: usize = 60;

impl Graph {
    /// The graph in Graphviz's language: a box a node, an edge a use, labelled with the type.
    pub fn to_dot(&self) -> String {
        let mut out =
            String::from("digraph {\n  node [shape=box, style=\"rounded,filled\", fillcolor=white, fontname=sans];\n");
        nodes(&mut out, self, "n");
        out.push_str("}\n");
        out
    }
}

fn nodes(out: &mut String, graph: &Graph, prefix: &str) {
    for (i, node) in graph.nodes.iter().enumerate() {
        let (label, rest) = attributes(&node.op);
        let mut lines = vec![[node.op.name(), &label].join(" "), rest];
        if !node.name.is_empty() && !matches!(node.op, Op::Input { .. } | Op::Weight { .. }) {
            lines.push(node.name.clone());
        }
        let text: Vec<String> = lines.iter().filter(|l| !l.is_empty()).map(|l| escaped(l)).collect();
        let colour = match node.op.kind() {
            OpKind::Source if matches!(node.op, Op::Input { .. }) => "lightblue",
            OpKind::Source => "lightgrey",
            OpKind::Nullary if matches!(node.op, Op::Const { .. }) => "lightgrey",
            OpKind::Contract | OpKind::Conv => "lightsalmon",
            OpKind::Reduce | OpKind::Window | OpKind::Sink => "khaki",
            _ => "white",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {prefix}{i} [label=\"{}\", fillcolor={colour}];", text.join("\\n"));
        for id in &node.inputs {
            let from = graph.value(*id);
            let ty = escaped(&from.ty.to_string());
            let _ = writeln!(out, "  {prefix}{} -> {prefix}{i} [label=\"{ty}\"];", from.node.0);
        }
        for (word, sub) in node.op.subgraphs() {
            let inner = format!("{prefix}{i}_{word}_");
            let _ = writeln!(out, "  subgraph cluster_{inner} {{ label=\"{word} {}\";", escaped(&sub.name));
            nodes(out, sub, &inner);
            out.push_str("  }\n");
        }
    }
    for (i, (name, id)) in graph.outputs.iter().enumerate() {
        let from = graph.value(*id);
        let _ = writeln!(out, "  {prefix}out{i} [label=\"{}\", fillcolor=lightgreen];", escaped(name));
        let ty = escaped(&from.ty.to_string());
        let _ = writeln!(out, "  {prefix}{} -> {prefix}out{i} [label=\"{ty}\"];", from.node.0);
    }
}

/// Escaped for a quoted label, and cut to a readable length.
fn escaped(s: &str) -> String {
    let cut: String = s.chars().take(MAX_LABEL).collect();
    let cut = if cut.len() < s.len() { cut + ".." } else { cut };
    cut.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ")
}
