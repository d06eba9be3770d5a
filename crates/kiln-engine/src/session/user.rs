//! Memory of the user's for inputs, outputs and activations.

use super::io::{Block, Io};
use super::{Session, input_error};
use crate::device::{MemId, UserMemory};
use crate::memory::ALIGNMENT;
use crate::{Error, Result};

/// Memory that the device goes on knowing when other memory takes its place: what was recorded for it can be replayed when it comes back.
const LIMIT: usize = 32;

impl Session {
    /// Binds an input to memory of the user's, without a copy: each run reads what is there when it is its turn. The input has `shape`, dense and row-major,
    /// little-endian, at the start of the memory.
    ///
    /// The address is a multiple of 16 bytes on a GPU, of 64 on the CPU. None of the memory is that of another input, an output or the arena, but for an output that is this input with updates
    /// ([`Session::updates`]): bound to the very same memory, it is updated there, and nothing is copied.
    /// Binding the same memory again costs nothing; what was recorded for memory that is used in turn is kept.
    ///
    /// # Errors
    /// An unknown name, another rank, an input that an output becomes ([`Session::donate`]), and memory that is null, misaligned, too small, not the
    /// device's, or overlaps what this session has of the user's. The input then is what it was.
    pub fn bind_device(&mut self, input: &str, shape: &[usize], memory: UserMemory) -> Result<()> {
        let at = self.input(input)?;
        let Some(dtype) = self.inputs().nth(at).map(|(_, ty)| ty.dtype) else { return Err(self.unknown_input(input)) };
        self.check(at, dtype, shape)?;
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let bytes = elements.and_then(|n| dtype.bytes_for(n));
        let bytes = bytes.ok_or_else(|| input_error(input, format!("{dtype}{shape:?} is more than can be counted")))?;
        if self.donations.iter().any(|donation| donation.input == at) {
            let message = "an output becomes it, which changes places with no memory of the user's".to_owned();
            return Err(input_error(input, message));
        }
        let updated = |io: &Io| io.output.is_some_and(|output| self.updated(output) == Some(at));
        let same: Vec<usize> = (0..self.io.len()).filter(|io| updated(&self.io[*io])).collect();
        let block = self.lend(at, &same, bytes, self.device.alignment(), memory);
        let block = block.map_err(|message| input_error(input, message))?;
        let old = self.io[at].block.replace(block);
        if old.is_some_and(|old| old.mem != block.mem) {
            self.forget_outputs(old);
        }
        self.discard(old)?;
        self.now_bound(at, shape);
        Ok(())
    }

    /// From now on runs write an output to memory of the user's, from its start on, until it is taken back ([`Session::unbind_output`]). It can be
    /// [`read`](Session::read) as ever. The memory must have the bytes of the shapes that run; its address is as for [`Session::bind_device`]. An output that is an input with updates
    /// ([`Session::updates`]) may have that input's memory: then each run updates what is there. With memory of its own it begins as a copy, and the input stays as it was.
    ///
    /// # Errors
    /// An unknown name; an output without memory of its own: one that is an input, a weight, donated, or the same as another that is bound (a reshape, say); and memory as for
    /// [`Session::bind_device`]. Memory that is too small is an error of the run, before anything runs.
    pub fn bind_output(&mut self, output: &str, memory: UserMemory) -> Result<()> {
        let at = self.output_index(output)?;
        let bound = self.bound_output(at);
        let same: Vec<usize> = self.updated(at).into_iter().collect();
        let block = self.lend(bound.unwrap_or(usize::MAX), &same, 0, self.device.alignment(), memory);
        let block = block.map_err(|message| Error::Output { name: output.to_owned(), message })?;
        let io = match bound {
            Some(io) => io,
            None => self.take_out(at)?,
        };
        self.io[io].block = Some(block);
        self.ran = false;
        Ok(())
    }

    /// Takes the memory of an output back: runs write it to memory of the session's own again.
    ///
    /// # Errors
    /// An unknown name, and what the device reports of queued runs.
    pub fn unbind_output(&mut self, output: &str) -> Result<()> {
        let at = self.output_index(output)?;
        let Some(io) = self.bound_output(at) else { return Ok(()) };
        self.synchronize()?;
        self.io.remove(io);
        self.outside.remove(io - self.plan().inputs.len());
        self.donations.iter_mut().filter(|donation| donation.io > io).for_each(|donation| donation.io -= 1);
        self.lay_out_anew();
        Ok(())
    }

    /// Bytes of activations of a run with inputs of such shapes, with the outputs that are bound or donated now: what [`Session::bind_arena`] takes. Nothing
    /// runs, and nothing that is bound changes.
    ///
    /// # Errors
    /// Inputs that are missing, unknown, or whose shapes do not agree.
    pub fn arena_bytes(&mut self, shapes: &[(&str, &[usize])]) -> Result<usize> {
        if let Some((name, _)) = shapes.iter().find(|(name, _)| self.input(name).is_err()) {
            return Err(self.unknown_input(name));
        }
        let of = |(at, (name, ty)): (usize, (&str, &kiln_graph::TensorType))| {
            let found = shapes.iter().find(|(known, _)| *known == name);
            let (_, shape) = found.ok_or_else(|| input_error(name, format!("missing; expected {ty}")))?;
            self.check(at, ty.dtype, shape)?;
            Ok(shape.to_vec())
        };
        let all = self.inputs().enumerate().map(of).collect::<Result<Vec<_>>>()?;
        let before = self.shapes.current_key().map(<[i64]>::to_vec);
        self.lay_out(&all)?;
        let bytes = self.shapes.current().map_or(0, |shape| shape.schedule.arena_bytes);
        if let Some(before) = before {
            self.shapes.recall(&before);
        }
        Ok(bytes)
    }

    /// From now on activations lie in memory of the user's, until it is taken back ([`Session::unbind_arena`]). Its address is a multiple of 256; [`Session::arena_bytes`] says how large it
    /// must be, for the kernels of now: others that come later ([`Session::follow`]) may need more, and runs then say so. Of several sessions that never run at the same time one memory may serve all, if what each gives is read (or bound elsewhere) before the next runs.
    ///
    /// # Errors
    /// Memory as for [`Session::bind_device`]. Memory that is too small is an error of the run, before anything runs.
    pub fn bind_arena(&mut self, memory: UserMemory) -> Result<()> {
        let block = self.lend(self.io.len(), &[], 0, ALIGNMENT, memory).map_err(|message| Error::Arena { message })?;
        self.ran = false;
        let old = self.arena.replace(block);
        self.discard(old)
    }

    /// Takes the memory of activations back: they lie in memory of the session's own again.
    ///
    /// # Errors
    /// What the device reports of queued runs.
    pub fn unbind_arena(&mut self) -> Result<()> {
        if self.arena.is_some_and(|block| block.user.is_some()) {
            self.synchronize()?;
            (self.arena, self.ran) = (None, false);
        }
        Ok(())
    }

    /// The input whose place an output may have: it is that with updates (a scatter, [`kiln_graph::Builder::update`]), and nothing reads the input after the first of them.
    ///
    /// # Errors
    /// An unknown name.
    pub fn updates(&self, output: &str) -> Result<Option<&str>> {
        let input = self.updated(self.output_index(output)?);
        Ok(input.and_then(|at| self.inputs().nth(at)).map(|(name, _)| name))
    }

    /// [`Session::updates`] by number.
    pub(super) fn updated(&self, output: usize) -> Option<usize> {
        self.plan().updated_input(self.plan().outputs[output].1)
    }

    /// All memory of the user's.
    pub(super) fn user_memory(&self) -> impl Iterator<Item = UserMemory> {
        self.io.iter().map(|io| io.block).chain([self.arena]).flatten().filter_map(|block| block.user)
    }

    /// The memory of the `i`-th output outside the arena, of which there must be so much.
    pub(super) fn output_memory(&mut self, i: usize, bytes: usize) -> Result<()> {
        let io = self.plan().inputs.len() + i;
        if let Some(donation) = self.donations.iter().find(|donation| donation.io == io && donation.in_place) {
            self.io[io].block = self.io[donation.input].block;
            return Ok(());
        }
        let Some(user) = self.io[io].block.and_then(|block| block.user) else {
            return self.reserve(io, bytes).map(|_| ());
        };
        user.check(bytes, self.device.alignment()).map_err(|message| {
            let name = self.io[io].output.map(|output| self.plan().outputs[output].0.clone());
            Error::Output { name: name.unwrap_or_default(), message }
        })
    }

    /// Where the memory of an output is that is bound.
    fn bound_output(&self, output: usize) -> Option<usize> {
        let bound = |io: &Io| io.output == Some(output) && io.block.is_some_and(|block| block.user.is_some());
        self.io.iter().position(bound)
    }

    /// The user's memory as a block that takes the place of that of `at`, or in words why it cannot. Behind the last of `io` is the arena. It may be the memory of `same`.
    fn lend(
        &mut self,
        at: usize,
        same: &[usize],
        bytes: usize,
        alignment: usize,
        memory: UserMemory,
    ) -> std::result::Result<Block, String> {
        memory.check(bytes, alignment)?;
        let blocks = self.io.iter().map(|io| io.block).chain([self.arena]).enumerate();
        let others = blocks.filter(|(other, _)| *other != at).filter_map(|(other, block)| Some((other, block?.user?)));
        for (other, user) in others.filter(|(_, user)| user.overlaps(&memory)) {
            let (address, end) = (user.address(), user.address() + user.bytes() as u64);
            let overlaps = format!("its memory overlaps what is bound already, from {address:#x} to {end:#x}");
            match (same.contains(&other), user == memory) {
                (true, true) => {}
                (true, false) => {
                    return Err(format!("{overlaps}; to update an input in place, bind exactly that memory"));
                }
                (false, _) => return Err(overlaps),
            }
        }
        let mem = self.known(memory).map_err(|e| e.to_string())?;
        Ok(Block { mem, bytes: memory.bytes(), user: Some(memory) })
    }

    /// What the device calls the user's memory.
    fn known(&mut self, memory: UserMemory) -> Result<MemId> {
        if let Some(at) = self.lent.iter().position(|(known, _)| *known == memory) {
            self.lent[at..].rotate_left(1);
        } else {
            let unused = self.lent.iter().position(|(known, _)| !self.user_memory().any(|used| used == *known));
            if let (true, Some(unused)) = (self.lent.len() >= LIMIT, unused) {
                let (_, mem) = self.lent.remove(unused);
                self.shapes.unplace(self.device.as_mut());
                self.device.free(mem)?;
            }
            let mem = self.device.lend(memory)?;
            self.lent.push((memory, mem));
        }
        self.lent.last().map(|(_, mem)| *mem).ok_or_else(|| super::internal("memory is missing"))
    }
}
