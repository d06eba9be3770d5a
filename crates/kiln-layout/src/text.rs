//! The text forms of layouts.

use crate::{LayoutError, Mode, RegisterLayout, SharedLayout, Step, Swizzle};
use std::fmt;
use std::str::FromStr;

const REGISTERS: &str = "16x8{2:1@1 2:8@0 | 4:2@1 8:1@0}";
const SHARED: &str = "2B{128:64 | 64:1 2:8192}^3,4,3*4";

fn joined<T: ToString>(items: impl IntoIterator<Item = T>, by: &str) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(by)
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.extent, self.stride)?;
        if self.is_copies() { Ok(()) } else { write!(f, "@{}", self.axis) }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.extent, self.stride)
    }
}

impl fmt::Display for RegisterLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [registers, threads] = [self.register_modes(), self.thread_modes()].map(|modes| joined(modes, " "));
        write!(f, "{}{{{registers} | {threads}}}", joined(self.shape(), "x"))
    }
}

impl fmt::Display for SharedLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes = joined(self.axes().iter().map(|steps| joined(steps, " ")), " | ");
        write!(f, "{}B{{{axes}}}", self.element_bytes())?;
        let swizzle = self.swizzle();
        if swizzle != Swizzle::NONE {
            write!(f, "^{},{},{}", swizzle.bits(), swizzle.base(), swizzle.shift())?;
        }
        if self.stages() == 1 { Ok(()) } else { write!(f, "*{}", self.stages()) }
    }
}

fn mode(text: &str) -> Option<Mode> {
    let (extent, rest) = text.split_once(':')?;
    let (stride, axis) = rest.split_once('@').unwrap_or((rest, "0"));
    let stride = stride.parse().ok()?;
    // A stride needs its axis, copies have none.
    ((stride == 0) != rest.contains('@')).then_some(())?;
    Some(Mode::along(axis.parse().ok()?, extent.parse().ok()?, stride))
}

fn step(text: &str) -> Option<Step> {
    let (extent, stride) = text.split_once(':')?;
    Some(Step { extent: extent.parse().ok()?, stride: stride.parse().ok()? })
}

fn registers(text: &str) -> Option<Result<RegisterLayout, LayoutError>> {
    let (shape, rest) = text.trim().split_once('{')?;
    let (registers, threads) = rest.strip_suffix('}')?.split_once('|')?;
    let shape: Vec<u32> = match shape {
        "" => Vec::new(),
        _ => shape.split('x').map(|extent| extent.parse().ok()).collect::<Option<_>>()?,
    };
    let modes = |part: &str| part.split_whitespace().map(mode).collect::<Option<Vec<Mode>>>();
    Some(RegisterLayout::new(&shape, &modes(registers)?, &modes(threads)?))
}

fn shared(text: &str) -> Option<Result<SharedLayout, LayoutError>> {
    let (bytes, rest) = text.trim().split_once("B{")?;
    let (axes, rest) = rest.split_once('}')?;
    let steps = |axis: &str| axis.split_whitespace().map(step).collect::<Option<Vec<Step>>>();
    let axes: Vec<Vec<Step>> = axes.split('|').map(steps).collect::<Option<_>>()?;
    let (swizzle, stages) = rest.split_once('*').unwrap_or((rest, "1"));
    let swizzle = match swizzle.strip_prefix('^') {
        Some(fields) => {
            let fields: Vec<u32> = fields.split(',').map(|field| field.parse().ok()).collect::<Option<_>>()?;
            let [bits, base, shift] = fields[..] else { return None };
            Swizzle::new(bits, base, shift)
        }
        None => swizzle.is_empty().then_some(Ok(Swizzle::NONE))?,
    };
    let (bytes, stages) = (bytes.parse().ok()?, stages.parse().ok()?);
    Some(swizzle.and_then(|swizzle| SharedLayout::new(&axes, bytes, swizzle, stages)))
}

/// Text to and from a layout, for `FromStr` and for serde.
macro_rules! text_form {
    ($layout:ty, $parse:ident, $what:literal, $example:ident) => {
        impl FromStr for $layout {
            type Err = LayoutError;

            fn from_str(text: &str) -> Result<Self, LayoutError> {
                let none = || LayoutError::Text { what: $what, text: text.to_owned(), example: $example };
                $parse(text).ok_or_else(none)?
            }
        }

        impl From<$layout> for String {
            fn from(layout: $layout) -> String {
                layout.to_string()
            }
        }

        impl TryFrom<String> for $layout {
            type Error = LayoutError;

            fn try_from(text: String) -> Result<Self, LayoutError> {
                text.parse()
            }
        }
    };
}

text_form!(RegisterLayout, registers, "register layout", REGISTERS);
text_form!(SharedLayout, shared, "shared-memory layout", SHARED);
