//! The header of a `.npy` file: `numpy.lib.format`, versions 1 to 3.
//!
//! ```text
//! "\x93NUMPY", major, minor, header length (u16, from version 2 on u32), a Python dict such as
//! {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
//! ```

use crate::{Error, Result};
use kiln_graph::DType;
use std::io::Read;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Longest header read, bytes: what version 1 can express. Headers of arrays without fields are far shorter.
const MAX_HEADER: usize = 1 << 16;
/// Most axes that NumPy knows.
const MAX_RANK: usize = 64;

/// What a header says of an element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stored {
    /// NumPy has a name for it.
    Named(DType),
    /// So many bytes of a dtype that NumPy has no name for, such as `V2`.
    Opaque(usize),
}

impl Stored {
    fn bytes(self) -> usize {
        match self {
            Stored::Named(dtype) => dtype.bits() as usize / 8,
            Stored::Opaque(bytes) => bytes,
        }
    }
}

impl std::fmt::Display for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stored::Named(dtype) => dtype.fmt(f),
            Stored::Opaque(bytes) => write!(f, "V{bytes}"),
        }
    }
}

/// What a header says.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    pub stored: Stored,
    pub shape: Vec<usize>,
    /// Bytes of the array.
    pub bytes: usize,
    /// Bytes before the array.
    pub at: usize,
}

impl Header {
    /// Reads a header and leaves `from` at the array.
    pub fn read(from: &mut impl Read, what: &str) -> Result<Header> {
        let fail = |message: String| Error::malformed(what, message);
        let mut fixed = [0; 8];
        read_exact(from, &mut fixed, what)?;
        let Some([major, _]) = fixed.strip_prefix(MAGIC) else {
            return Err(fail("it does not start with \\x93NUMPY".into()));
        };
        let mut length = [0; 4];
        let width = match major {
            1 => 2,
            2 | 3 => 4,
            other => return Err(fail(format!("format version {other}; expected 1, 2 or 3"))),
        };
        read_exact(from, &mut length[..width], what)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_HEADER {
            return Err(fail(format!("a header of {length} bytes; expected at most {MAX_HEADER}")));
        }
        let mut text = vec![0; length];
        read_exact(from, &mut text, what)?;
        let (stored, shape) = Parser { text: &text, at: 0 }.dict().map_err(fail)?;
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let bytes = elements
            .and_then(|n| n.checked_mul(stored.bytes()))
            .ok_or_else(|| fail(format!("{stored}{shape:?} has more bytes than this machine can address")))?;
        Ok(Header { stored, shape, bytes, at: fixed.len() + width + length })
    }
}

fn read_exact(from: &mut impl Read, to: &mut [u8], what: &str) -> Result<()> {
    from.read_exact(to).map_err(|e| Error::malformed(what, format!("its header cannot be read: {e}")))
}

/// One pass over the dict; nothing nests, so it takes time in proportion to the text.
struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

type Parsed<T> = std::result::Result<T, String>;

impl<'a> Parser<'a> {
    fn peek(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, c: u8) -> bool {
        let hit = self.peek() == Some(c);
        self.at += usize::from(hit);
        hit
    }

    fn expect(&mut self, c: u8) -> Parsed<()> {
        if self.eat(c) { Ok(()) } else { Err(self.expected(&format!("`{}`", c as char))) }
    }

    fn expected(&mut self, what: &str) -> String {
        let found = self.peek().map_or("the end".to_owned(), |c| format!("`{}`", c.escape_ascii()));
        format!("its header: expected {what} at byte {}, found {found}", self.at)
    }

    fn run(&mut self, accept: impl Fn(&u8) -> bool) -> &'a [u8] {
        self.peek();
        let rest = &self.text[self.at..];
        let word = &rest[..rest.iter().position(|c| !accept(c)).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }

    fn dict(mut self) -> Parsed<(Stored, Vec<usize>)> {
        let (mut stored, mut column_major, mut shape) = (None, None, None);
        self.expect(b'{')?;
        while !self.eat(b'}') {
            let key = self.string()?;
            self.expect(b':')?;
            match key {
                b"descr" if stored.is_none() => stored = Some(self.descr()?),
                b"fortran_order" if column_major.is_none() => column_major = Some(self.bool()?),
                b"shape" if shape.is_none() => shape = Some(self.shape()?),
                other => return Err(format!("its header has `{}`, or has it twice", other.escape_ascii())),
            }
            if !self.eat(b',') && self.peek() != Some(b'}') {
                return Err(self.expected("`,` or `}`"));
            }
        }
        if self.peek().is_some() {
            return Err(self.expected("the end"));
        }
        let (Some(stored), Some(column_major), Some(shape)) = (stored, column_major, shape) else {
            return Err("its header lacks descr, fortran_order or shape".into());
        };
        if column_major && shape.len() > 1 {
            return Err("column-major data; save it with `np.ascontiguousarray`".into());
        }
        Ok((stored, shape))
    }

    fn string(&mut self) -> Parsed<&'a [u8]> {
        let quote = match self.peek() {
            Some(quote @ (b'\'' | b'"')) => quote,
            _ => return Err(self.expected("a string")),
        };
        self.at += 1;
        let rest = &self.text[self.at..];
        let end = rest.iter().position(|&c| c == quote).ok_or("its header: a string does not end")?;
        self.at += end + 1;
        Ok(&rest[..end])
    }

    fn bool(&mut self) -> Parsed<bool> {
        match self.run(u8::is_ascii_alphabetic) {
            b"True" => Ok(true),
            b"False" => Ok(false),
            _ => Err(self.expected("True or False")),
        }
    }

    fn descr(&mut self) -> Parsed<Stored> {
        if self.peek() == Some(b'[') {
            return Err("structured arrays are not tensors".into());
        }
        let text = self.string()?;
        let unknown =
            || format!("dtype {} is not supported; use bool, an integer or a float dtype", text.escape_ascii());
        let Some((order, kind)) = text.split_first() else { return Err(unknown()) };
        let dtype = match kind {
            b"f8" => DType::F64,
            b"f4" => DType::F32,
            b"f2" => DType::F16,
            b"i8" => DType::I64,
            b"i4" => DType::I32,
            b"i2" => DType::I16,
            b"i1" => DType::I8,
            b"u8" => DType::U64,
            b"u4" => DType::U32,
            b"u2" => DType::U16,
            b"u1" => DType::U8,
            b"b1" => DType::Bool,
            // As ml_dtypes 0.5 and 0.6 name float8_e5m2; NumPy itself does not read it.
            b"f1" => DType::F8E5M2,
            b"V1" => return Ok(Stored::Opaque(1)),
            b"V2" if order != &b'>' => return Ok(Stored::Opaque(2)),
            _ => return Err(unknown()),
        };
        match order {
            b'<' | b'|' => Ok(Stored::Named(dtype)),
            b'>' if dtype.bits() == 8 => Ok(Stored::Named(dtype)),
            b'>' => Err("big-endian data; save it with `.astype(a.dtype.newbyteorder('<'))`".into()),
            _ => Err(unknown()),
        }
    }

    fn shape(&mut self) -> Parsed<Vec<usize>> {
        let mut shape = Vec::new();
        self.expect(b'(')?;
        while !self.eat(b')') {
            let digits = std::str::from_utf8(self.run(u8::is_ascii_digit)).unwrap_or_default();
            if digits.is_empty() {
                return Err(self.expected("an extent"));
            }
            shape.push(digits.parse().map_err(|_| format!("its extent {digits:.40} is beyond 64 bits"))?);
            if shape.len() > MAX_RANK {
                return Err(format!("it has more than {MAX_RANK} axes"));
            }
            if !self.eat(b',') && self.peek() != Some(b')') {
                return Err(self.expected("`,` or `)`"));
            }
        }
        Ok(shape)
    }
}
