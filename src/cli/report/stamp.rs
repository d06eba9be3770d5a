//! What an engine says of itself: versions, hashes, signature, settings, targets, sections.

use super::page::{Facts, section};
use super::table;
use crate::cli::inspect::runs_on;
use crate::cli::markup::Markup;
use crate::cli::out::bytes;

/// The last section.
pub fn stamp(page: &mut Markup, facts: &Facts<'_>) {
    let header = facts.header;
    section(page, "stamp", "Stamp", "What the engine's header says; `kiln inspect ENGINE --json` prints it.");
    page.open("dl", &[("class", &"stamp")]);
    fact(page, "engine", &facts.path.display().to_string());
    fact(page, "model", &header.model);
    fact(page, "Kiln", &format!("{}, format {}", header.stamp.kiln, header.stamp.format));
    fact(page, "graph", &header.stamp.graph_hash);
    for (what, ports) in [("input", &header.inputs), ("output", &header.outputs)] {
        for port in ports {
            fact(page, what, &format!("{}: {}", port.name, port.ty));
        }
    }
    for (name, (min, max)) in header.symbols.iter() {
        let max = if max == i64::MAX { "any".to_owned() } else { max.to_string() };
        fact(page, "symbol", &format!("{name}: {min}..={max}"));
    }
    let weights = match facts.engine.stripped {
        true => format!("stripped; `kiln refit` takes {} tensors", facts.engine.refit.parameters.len()),
        false => format!("{} in {} tensors", bytes(facts.engine.weight_bytes()), header.weights.len()),
    };
    fact(page, "weights", &weights);
    settings(page, facts);
    for (image, target) in facts.engine.targets.iter().zip(&header.targets) {
        let own = if std::ptr::eq(image, facts.image) { ", this report's" } else { "" };
        let text = match &image.toolchain {
            Some(toolchain) => {
                let options = toolchain.options.join(" ");
                format!("NVRTC {} with {options}; configs {}; {}", toolchain.nvrtc, target.config_hash, runs_on(image))
            }
            None => "no code: its regions are run by the CPU device".to_owned(),
        };
        fact(page, &format!("target {}{own}", image.label()), &text);
    }
    page.close("dl");
    sections(page, facts);
    page.close("section");
}

fn fact(page: &mut Markup, name: &str, text: &str) {
    page.open("div", &[]);
    page.content("dt", &[], name);
    page.content("dd", &[], text);
    page.close("div");
}

fn settings(page: &mut Markup, facts: &Facts<'_>) {
    // As the header has them, whatever there will be.
    let Ok(serde_json::Value::Object(settings)) = serde_json::to_value(&facts.header.stamp.settings) else { return };
    for (name, value) in settings {
        let text = match value {
            serde_json::Value::String(text) => text,
            serde_json::Value::Object(fields) if fields.is_empty() => "none".to_owned(),
            other => other.to_string(),
        };
        fact(page, &name.replace('_', " "), &text);
    }
}

fn sections(page: &mut Markup, facts: &Facts<'_>) {
    table::open(page, "sections", &[("section", false), ("size", true), ("offset", true), ("BLAKE3", false)]);
    for section in &facts.header.sections {
        page.open("tr", &[]);
        page.content("td", &[("data-label", &"section")], &section.name);
        table::number(page, "size", Some(section.length as f64), bytes(section.length));
        table::number(page, "offset", Some(section.offset as f64), section.offset);
        page.open("td", &[("data-label", &"BLAKE3")]);
        page.content("code", &[], &section.blake3);
        page.close("td");
        page.close("tr");
    }
    table::close(page);
}
