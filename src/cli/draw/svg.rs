//! What SVG has beside markup: text at places, and how wide text is.

use super::layered::Wire;
use crate::cli::markup::Markup;

impl Markup {
    /// A line of text from `x` on, with its baseline at `y`.
    pub fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        self.content("text", &[("x", &round(x)), ("y", &round(y)), ("class", &class)], text);
    }
}

/// The tip of wires, by this name.
pub fn marker(svg: &mut Markup, id: &str) {
    svg.open("defs", &[]);
    svg.open(
        "marker",
        &[
            ("id", &id),
            ("viewBox", &"0 0 8 8"),
            ("refX", &7),
            ("refY", &4),
            ("markerWidth", &7),
            ("markerHeight", &7),
            ("orient", &"auto"),
        ],
    );
    svg.element("path", &[("d", &"M0,0.5 L8,4 L0,7.5 z"), ("fill", &"#64748b")]);
    svg.close("marker");
    svg.close("defs");
}

/// The path of a wire, in a drawing that begins at this place.
pub fn curve(wire: &Wire, (x, y): (f64, f64)) -> String {
    let at = |p: (f64, f64)| (round(x + p.0), round(y + p.1));
    let ((fx, fy), (tx, ty)) = (at(wire.from), at(wire.to));
    let bend = round(y + wire.bend);
    let middle = round((bend + ty) / 2.0);
    match fx == tx {
        true => format!("M{fx},{fy} L{tx},{ty}"),
        false => format!("M{fx},{fy} L{fx},{bend} C{fx},{middle} {tx},{middle} {tx},{ty}"),
    }
}

/// A picture as a document, which is an element of a page too: `style`, one rule a line, is for what is inside this class of pictures alone.
pub fn document(body: Markup, (width, height): (f64, f64), class: &str, style: &str) -> String {
    let (width, height) = (width.ceil(), height.ceil());
    let style: String = style.lines().map(|rule| format!("svg.{class} {rule}\n")).collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"{class}\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
         <style>\n{style}</style>\n<rect class=\"paper\" width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n{}</svg>\n",
        body.finish()
    )
}

/// To a tenth of a pixel, which is as much as can be seen.
pub fn round(v: f64) -> f64 {
    (v * 10.0).round() / 10.0
}

/// Characters in the width of a font of one width; those of East Asia take two.
fn columns(text: &str) -> usize {
    text.chars().map(|c| if c >= '\u{1100}' { 2 } else { 1 }).sum()
}

/// Width of text in a font of one width, whose characters are 0.6 or a little more of its size in all common fonts.
pub fn width(text: &str, size: f64) -> f64 {
    columns(text) as f64 * size * 0.61
}

/// Text cut in its middle to a width: beginnings and ends tell names apart.
pub fn fit(text: &str, size: f64, room: f64) -> String {
    if width(text, size) <= room {
        return text.to_owned();
    }
    let chars: Vec<char> = text.chars().collect();
    for kept in (1..chars.len()).rev() {
        let (head, tail) = (kept.div_ceil(2), kept / 2);
        let cut: String = chars[..head].iter().chain(&['…']).chain(&chars[chars.len() - tail..]).collect();
        if width(&cut, size) <= room {
            return cut;
        }
    }
    String::new()
}

/// Text in lines of at most a width, at most `most`, broken at spaces; the last is cut.
pub fn wrap(text: &str, size: f64, room: f64, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let full = lines.len() == most;
        match lines.last_mut() {
            Some(line) if full || width(&format!("{line} {word}"), size) <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.iter().map(|line| if width(line, size) <= room { line.clone() } else { cut(line, size, room) }).collect()
}

/// Text cut at its end.
fn cut(text: &str, size: f64, room: f64) -> String {
    let mut kept: Vec<char> = text.chars().collect();
    while !kept.is_empty() && width(&(kept.iter().collect::<String>() + "…"), size) > room {
        kept.pop();
    }
    kept.iter().collect::<String>().trim_end().to_owned() + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_to_its_room() {
        let name = "encoder_layer_11_attention_output";
        let cut = fit(name, 10.0, 100.0);
        assert!(width(&cut, 10.0) <= 100.0 && cut.starts_with("encoder") && cut.ends_with("output"), "{cut}");
        assert_eq!(fit(name, 10.0, 1000.0), name);
        assert_eq!(fit(name, 10.0, 1.0), "");
        assert_eq!(wrap("one two three", 10.0, 50.0, 5), ["one two", "three"]);
        let cut = wrap("one two three four", 10.0, 50.0, 2);
        assert!(cut.len() == 2 && cut[1].ends_with('…') && width(&cut[1], 10.0) <= 50.0, "{cut:?}");
    }
}
