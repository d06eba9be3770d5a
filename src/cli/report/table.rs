//! Tables that sort by a heading, and are cards on a phone: each cell has its heading as `data-label`, and a number to sort by as `data-v`.

use crate::cli::markup::Markup;
use std::fmt::Display;

/// Begins a table; of each column the heading, and whether it has numbers.
pub fn open(page: &mut Markup, class: &str, columns: &[(&str, bool)]) {
    page.open("div", &[("class", &"scroll")]);
    page.open("table", &[("class", &format!("{class} sortable"))]);
    page.open("thead", &[]);
    page.open("tr", &[]);
    for (name, number) in columns {
        page.open("th", &[("class", if *number { &"number" } else { &"" }), ("scope", &"col")]);
        page.content("button", &[("type", &"button")], name);
        page.close("th");
    }
    page.close("tr");
    page.close("thead");
    page.open("tbody", &[]);
}

/// Ends it.
pub fn close(page: &mut Markup) {
    ["tbody", "table", "div"].iter().for_each(|tag| page.close(tag));
}

/// A cell with a number to sort by; nothing where it is not known.
pub fn number(page: &mut Markup, label: &str, value: Option<f64>, text: impl Display) {
    let text = text.to_string();
    match value {
        Some(value) => page.content("td", &[("class", &"number"), ("data-label", &label), ("data-v", &value)], &text),
        None => page.content("td", &[("class", &"number"), ("data-label", &label)], "–"),
    }
}

/// A cell with a share as a bar.
pub fn bar(page: &mut Markup, label: &str, share: Option<f64>, class: &str, hint: &str) {
    let Some(share) = share else { return number(page, label, None, "") };
    page.open("td", &[("class", &"number"), ("data-label", &label), ("data-v", &share), ("title", &hint)]);
    page.open("span", &[("class", &"bar")]);
    let width = format!("width:{:.1}%", 100.0 * share.clamp(0.0, 1.0));
    page.content("i", &[("class", &class), ("style", &width)], "");
    page.close("span");
    page.content("span", &[], &format!("{:.0} %", 100.0 * share));
    page.close("td");
}
