//! Inputs and outputs that stay on the device: bound once, run many times, handed from one run to the next.

use super::steps::fetch;
use super::{Session, input_error, internal};
use crate::device::{MemId, Place, UserMemory};
use crate::{Error, Result};
use kiln_fuse::BufferKind;
use kiln_graph::{DType, Element, Tensor};

/// Device memory.
#[derive(Clone, Copy)]
pub struct Block {
    /// What the device calls it.
    pub mem: MemId,
    /// Its size.
    pub bytes: usize,
    /// Whether it is the user's.
    pub user: Option<UserMemory>,
}

/// Device memory of an input, or of an output that lies outside the arena.
#[derive(Default)]
pub struct Io {
    /// Where there is any yet.
    pub block: Option<Block>,
    /// The output's number; of inputs none.
    pub output: Option<usize>,
    /// Extents of what is bound.
    pub shape: Vec<usize>,
    /// Whether an input has a value.
    pub bound: bool,
}

/// An output that is an input of the next run: their memory changes places.
#[derive(Clone, Copy)]
pub struct Donation {
    output: usize,
    /// The input's number.
    pub input: usize,
    /// The output's memory.
    pub io: usize,
    /// Whether that is the input's: the output is it with updates.
    pub in_place: bool,
}

/// An output of the last run.
#[derive(Clone)]
pub struct Ran {
    /// Where it lies.
    pub place: Place,
    /// Extents.
    pub shape: Vec<usize>,
}

impl Session {
    /// Copies elements to the device as the value of an input, where they stay until the input is bound again.
    ///
    /// # Errors
    /// An unknown name, another element type or rank, and a number of elements that is not that of the shape.
    pub fn bind<T: Element>(&mut self, input: &str, shape: &[usize], elements: &[T]) -> Result<()> {
        let expected = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if expected != Some(elements.len()) {
            return Err(input_error(
                input,
                format!("shape {shape:?} and {} elements do not go together", elements.len()),
            ));
        }
        let at = self.input(input)?;
        self.check(at, T::DTYPE, shape)?;
        self.put(at, shape, T::as_bytes(elements))
    }

    /// [`Session::bind`] for a tensor of any type.
    ///
    /// # Errors
    /// As for `bind`.
    pub fn bind_tensor(&mut self, input: &str, tensor: &Tensor) -> Result<()> {
        let at = self.input(input)?;
        self.check(at, tensor.dtype(), tensor.shape())?;
        self.put(at, tensor.shape(), tensor.data())
    }

    /// [`Session::bind`] for elements that are bytes, little-endian: what other languages have.
    ///
    /// # Errors
    /// As for `bind`.
    pub fn bind_bytes(&mut self, input: &str, dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<()> {
        let at = self.input(input)?;
        self.check(at, dtype, shape)?;
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if elements.and_then(|n| dtype.bytes_for(n)) != Some(bytes.len()) {
            let message = format!("{dtype}{shape:?} and {} bytes do not go together", bytes.len());
            return Err(input_error(input, message));
        }
        self.put(at, shape, bytes)
    }

    /// From now on the value of `output` after a run is that of `input` in the next: the two change places on the device, and nothing is
    /// copied. The first value is bound; the output can be read until the next run. Where the output is the input with updates ([`Session::updates`]), both are one memory, which a run updates;
    /// after one that fails the input is to be bound again.
    ///
    /// # Errors
    /// Unknown names, types or ranks that differ, and what is already donated.
    pub fn donate(&mut self, output: &str, input: &str) -> Result<()> {
        let (from, to) = (self.output_index(output)?, self.input(input)?);
        let (out, own) = (self.plan().outputs[from].1, self.plan().inputs[to]);
        let (a, b) = (&self.plan().buffers[out.index()].ty, &self.plan().buffers[own.index()].ty);
        if a.dtype != b.dtype || a.rank() != b.rank() {
            return Err(input_error(input, format!("expected {b}, and output `{output}` is {a}")));
        }
        if self.donations.iter().any(|d| d.input == to) {
            return Err(input_error(input, "it already becomes what another output was".into()));
        }
        if self.plan().root(out) == own {
            return Ok(());
        }
        if self.io[to].block.is_some_and(|block| block.user.is_some()) {
            return Err(input_error(
                input,
                "it lies in memory of the user's, which changes places with nothing".into(),
            ));
        }
        let io = self.take_out(from)?;
        self.donations.push(Donation { output: from, input: to, io, in_place: self.updated(from) == Some(to) });
        Ok(())
    }

    /// Takes an output out of the arena: the number of its memory.
    pub(super) fn take_out(&mut self, output: usize) -> Result<usize> {
        let (name, id) = &self.plan().outputs[output];
        let memory = self.plan().root(*id);
        let written = !matches!(self.plan().buffers[memory.index()].kind, BufferKind::Input(_) | BufferKind::Weight(_));
        if !written || self.outside.contains(&memory) {
            let message = "it has no memory of its own: it is an input, a weight, or (the same as) an output that is \
                           donated already or bound";
            return Err(Error::Output { name: name.clone(), message: message.into() });
        }
        self.io.push(Io { output: Some(output), ..Io::default() });
        self.outside.push(memory);
        self.lay_out_anew();
        Ok(self.io.len() - 1)
    }

    /// Other buffers lie outside the arena than did.
    pub(super) fn lay_out_anew(&mut self) {
        self.shapes.clear(self.device.as_mut());
        (self.fresh, self.ran) = (false, false);
    }

    /// Extents of an output of the last run.
    ///
    /// # Errors
    /// An unknown name, or no run before.
    pub fn output_shape(&self, output: &str) -> Result<&[usize]> {
        Ok(&self.last(self.output_index(output)?)?.shape)
    }

    /// Copies an output of the last run to the host.
    ///
    /// # Errors
    /// An unknown name, no run before, and a slice of another type or length.
    pub fn read<T: Element>(&mut self, output: &str, into: &mut [T]) -> Result<()> {
        let at = self.output_index(output)?;
        let dtype = self.plan().buffers[self.plan().outputs[at].1.index()].ty.dtype;
        let Ran { place, shape } = self.last(at)?;
        let place = *place;
        if dtype != T::DTYPE || place.bytes != size_of_val(into) {
            let message = format!("is {dtype}{shape:?}; a slice of {} {} was given", into.len(), T::DTYPE);
            return Err(Error::Output { name: output.to_owned(), message });
        }
        match T::as_bytes_mut(into) {
            Some(bytes) => {
                let done = self.device.download(place, bytes);
                self.settled(done)
            }
            None => {
                self.staging.resize(place.bytes, 0);
                let done = self.device.download(place, &mut self.staging);
                self.settled(done)?;
                for (to, from) in into.iter_mut().zip(self.staging.chunks_exact(size_of::<T>())) {
                    *to = T::read(from);
                }
                Ok(())
            }
        }
    }

    /// [`Session::read`] into bytes, little-endian.
    ///
    /// # Errors
    /// An unknown name, no run before, and a slice of another length.
    pub fn read_bytes(&mut self, output: &str, into: &mut [u8]) -> Result<()> {
        let Ran { place, shape } = self.last(self.output_index(output)?)?;
        let place = *place;
        if place.bytes != into.len() {
            let message = format!("of shape {shape:?} takes {} bytes; {} were given", place.bytes, into.len());
            return Err(Error::Output { name: output.to_owned(), message });
        }
        let done = self.device.download(place, into);
        self.settled(done)
    }

    /// An output of the last run.
    ///
    /// # Errors
    /// An unknown name, or no run before.
    pub fn output(&mut self, output: &str) -> Result<Tensor> {
        let at = self.output_index(output)?;
        let done = self.tensor(at);
        self.settled(done)
    }

    /// An output of the last run, by its number.
    pub(super) fn tensor(&mut self, at: usize) -> Result<Tensor> {
        let Ran { place, shape } = self.last(at)?.clone();
        let dtype = self.plan().buffers[self.plan().outputs[at].1.index()].ty.dtype;
        fetch(self.device.as_mut(), dtype, place, shape)
    }

    fn last(&self, output: usize) -> Result<&Ran> {
        match self.outputs.get(output) {
            Some(ran) if self.ran => Ok(ran),
            _ => {
                let (name, message) = (self.plan().outputs[output].0.clone(), "there is none before a run".into());
                Err(Error::Output { name, message })
            }
        }
    }

    pub(super) fn input(&self, name: &str) -> Result<usize> {
        self.inputs().position(|(known, _)| known == name).ok_or_else(|| self.unknown_input(name))
    }

    pub(super) fn unknown_input(&self, name: &str) -> Error {
        let names: Vec<&str> = self.inputs().map(|known| known.0).collect();
        let hint = match self.loaded.weights.contains_key(name) {
            true => "; it is a weight of this engine: build the model with `--profile` for it to be an input",
            false => "",
        };
        input_error(name, format!("the model has no such input; it has {}{hint}", names.join(", ")))
    }

    pub(super) fn output_index(&self, name: &str) -> Result<usize> {
        self.plan().outputs.iter().position(|(known, _)| known == name).ok_or_else(|| {
            let names: Vec<&str> = self.outputs().map(|known| known.0).collect();
            let message = format!("the model has no such output; it has {}", names.join(", "));
            Error::Output { name: name.to_owned(), message }
        })
    }

    pub(super) fn check(&self, at: usize, dtype: DType, shape: &[usize]) -> Result<()> {
        let Some((name, ty)) = self.inputs().nth(at) else { return Err(internal("an input is missing")) };
        if dtype != ty.dtype || shape.len() != ty.rank() {
            return Err(input_error(name, format!("expected {ty}, found {dtype}{shape:?}")));
        }
        Ok(())
    }

    fn put(&mut self, at: usize, shape: &[usize], data: &[u8]) -> Result<()> {
        let mem = self.reserve(at, data.len())?;
        let done = self.device.upload(Place { mem, offset: 0, bytes: data.len() }, data);
        done.map_err(|e| self.blamed(e))?;
        self.now_bound(at, shape);
        Ok(())
    }

    pub(super) fn now_bound(&mut self, at: usize, shape: &[usize]) {
        let io = &mut self.io[at];
        if !io.bound || io.shape != shape {
            io.bound = true;
            io.shape.clear();
            io.shape.extend_from_slice(shape);
            self.fresh = false;
        }
    }

    /// Makes sure that a block has the bytes, which loses its contents if it does not.
    pub(super) fn reserve(&mut self, at: usize, bytes: usize) -> Result<MemId> {
        // What is the user's is left as it is.
        let old = match self.io[at].block.filter(|block| block.user.is_none()) {
            Some(block) if block.bytes >= bytes => return Ok(block.mem),
            old => old,
        };
        // What grows once often grows again.
        let bytes = bytes.max(old.map_or(1, |block| block.bytes + block.bytes / 2));
        self.io[at].block = None;
        if at < self.plan().inputs.len() {
            // Until there is memory again.
            (self.io[at].bound, self.fresh) = (false, false);
        }
        self.forget_outputs(old);
        let mem = self.replace(old, bytes)?;
        self.io[at].block = Some(Block { mem, bytes, user: None });
        Ok(mem)
    }

    /// There is no output of the last run any more in memory that is given up.
    pub(super) fn forget_outputs(&mut self, old: Option<Block>) {
        self.ran &= !old.is_some_and(|block| self.outputs.iter().any(|ran| ran.place.mem == block.mem));
    }

    /// Outputs that are donated become inputs.
    pub(super) fn hand_over(&mut self) {
        for i in 0..self.donations.len() {
            let Donation { output, input, io, .. } = self.donations[i];
            let own = self.io[input].block;
            self.io[input].block = std::mem::replace(&mut self.io[io].block, own);
            // Taken out, so that nothing is allocated.
            let shape = std::mem::take(&mut self.outputs[output].shape);
            self.now_bound(input, &shape);
            self.outputs[output].shape = shape;
        }
    }
}
