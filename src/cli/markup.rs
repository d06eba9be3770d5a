//! Writing XML, of which SVG is and HTML may be: elements, and text that cannot be anything else.

use std::fmt::{Display, Write};

/// A document that is being written.
#[derive(Default)]
pub struct Markup {
    body: String,
}

/// Attributes of an element.
pub type Attributes<'a> = &'a [(&'a str, &'a dyn Display)];

// Writing to a String cannot fail: results of `write!` are dropped here.
impl Markup {
    /// Begins an element that has others inside.
    pub fn open(&mut self, tag: &str, attributes: Attributes<'_>) {
        self.start(tag, attributes);
        self.body.push_str(">\n");
    }

    /// Ends it.
    pub fn close(&mut self, tag: &str) {
        let _ = writeln!(self.body, "</{tag}>");
    }

    /// An element with nothing inside. In HTML some must have an end: see [`Markup::content`].
    pub fn element(&mut self, tag: &str, attributes: Attributes<'_>) {
        self.start(tag, attributes);
        self.body.push_str("/>\n");
    }

    /// An element with text inside, or none.
    pub fn content(&mut self, tag: &str, attributes: Attributes<'_>, text: &str) {
        self.start(tag, attributes);
        let _ = writeln!(self.body, ">{}</{tag}>", escaped(text));
    }

    /// What is markup already.
    pub fn markup(&mut self, markup: &str) {
        self.body.push_str(markup);
    }

    /// What was written.
    pub fn finish(self) -> String {
        self.body
    }

    fn start(&mut self, tag: &str, attributes: Attributes<'_>) {
        let _ = write!(self.body, "<{tag}");
        for (name, value) in attributes {
            let _ = write!(self.body, " {name}=\"{}\"", escaped(&value.to_string()));
        }
    }
}

/// Text and attribute values in XML 1.0, which has no place for most control characters.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_are_escaped() {
        assert_eq!(escaped("a<b & \"c\"\u{1}\n"), "a&lt;b &amp; &quot;c&quot;\u{fffd} ");
        let mut page = Markup::default();
        page.content("p", &[("title", &"\"><script>")], "</p>");
        assert_eq!(page.finish(), "<p title=\"&quot;&gt;&lt;script&gt;\">&lt;/p&gt;</p>\n");
    }
}
