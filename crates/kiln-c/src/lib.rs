//! Engines from C: load, list inputs and outputs, run, say what went wrong.
//!
//! Knows: `kiln-engine`, and how C passes things. Must not know: building engines. `include/kiln.h` is made from this file by `cargo xtask header`.
//!
//! Nothing panics over the boundary, and every pointer is checked for null. What cannot be checked is the caller's word: that a pointer is what its
//! function gave and was not freed, that texts end with 0, and that arrays are as long as is said beside them.

mod boundary;

use boundary::{Failure, fail, guarded, object, slice, slice_mut, text};
use kiln_engine::{Engine, Port, PublicKey, Session, UserMemory, UserStream, open_device};
use kiln_graph::DType;
use std::ffi::{CString, c_char, c_void};
use std::ptr;

/// Success, or not: then kiln_error() says what went wrong.
pub type KilnStatus = i32;
/// It worked.
pub const KILN_OK: KilnStatus = 0;
/// It did not: see kiln_error().
pub const KILN_ERROR: KilnStatus = 1;

/// An element type. Elements are little-endian.
pub type KilnDType = u32;
/// IEEE binary64.
pub const KILN_F64: KilnDType = 0;
/// IEEE binary32.
pub const KILN_F32: KilnDType = 1;
/// IEEE binary16.
pub const KILN_F16: KilnDType = 2;
/// The upper half of a binary32.
pub const KILN_BF16: KilnDType = 3;
/// 8 bits, 4 of exponent, finite only.
pub const KILN_F8E4M3: KilnDType = 4;
/// 8 bits, 5 of exponent.
pub const KILN_F8E5M2: KilnDType = 5;
/// Signed, 64 bits.
pub const KILN_I64: KilnDType = 6;
/// Signed, 32 bits.
pub const KILN_I32: KilnDType = 7;
/// Signed, 16 bits.
pub const KILN_I16: KilnDType = 8;
/// Signed, 8 bits.
pub const KILN_I8: KilnDType = 9;
/// Unsigned, 64 bits.
pub const KILN_U64: KilnDType = 10;
/// Unsigned, 32 bits.
pub const KILN_U32: KilnDType = 11;
/// Unsigned, 16 bits.
pub const KILN_U16: KilnDType = 12;
/// Unsigned, 8 bits.
pub const KILN_U8: KilnDType = 13;
/// Signed, 4 bits: two a byte, the first in its low half.
pub const KILN_I4: KilnDType = 14;
/// Unsigned, 4 bits: two a byte, the first in its low half.
pub const KILN_U4: KilnDType = 15;
/// A byte that is 0 or 1.
pub const KILN_BOOL: KilnDType = 16;

/// The types by their numbers.
const DTYPES: [DType; 17] = [
    DType::F64,
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::F8E4M3,
    DType::F8E5M2,
    DType::I64,
    DType::I32,
    DType::I16,
    DType::I8,
    DType::U64,
    DType::U32,
    DType::U16,
    DType::U8,
    DType::I4,
    DType::U4,
    DType::Bool,
];

/// An extent of a shape that is known when inputs are bound only.
pub const KILN_SYMBOLIC: i64 = -1;

/// A loaded engine. Any thread may use it.
pub struct KilnEngine {
    engine: Engine,
    inputs: Vec<Signature>,
    outputs: Vec<Signature>,
}

/// An engine on a device. One thread at a time may use it.
pub struct KilnSession {
    session: Session,
}

/// An input or output of an engine. What it points to lives as long as the engine.
#[repr(C)]
pub struct KilnPort {
    /// Its name.
    pub name: *const c_char,
    /// Its element type.
    pub dtype: KilnDType,
    /// How many axes it has.
    pub rank: usize,
    /// Their extents, outermost first; KILN_SYMBOLIC where inputs decide.
    pub shape: *const i64,
}

/// What a [`KilnPort`] points to.
struct Signature {
    name: CString,
    dtype: KilnDType,
    shape: Vec<i64>,
}

impl Signature {
    fn of(port: &Port) -> Result<Signature, Failure> {
        let dtype = DTYPES.iter().position(|dtype| *dtype == port.ty.dtype);
        let dtype = dtype.ok_or_else(|| format!("`{}` is {}, which this library does not know", port.name, port.ty))?;
        let name = CString::new(port.name.as_str()).map_err(|_| format!("the name {:?} holds a 0", port.name))?;
        let extent = |dim: &kiln_graph::Dim| dim.as_const().unwrap_or(KILN_SYMBOLIC);
        Ok(Signature { name, dtype: dtype as KilnDType, shape: port.ty.shape.iter().map(extent).collect() })
    }
}

/// What went wrong in this thread's last call that failed; an empty text if none has. It is valid until the thread's next call that fails.
#[unsafe(no_mangle)]
pub extern "C" fn kiln_error() -> *const c_char {
    boundary::last()
}

/// The version of this library, which is that of the engines that it loads.
#[unsafe(no_mangle)]
pub extern "C" fn kiln_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Loads an engine's file; null if that fails. The file must stay as it is until the engine and its sessions are freed: it is mapped, not read.
///
/// # Safety
/// `path` is a text that ends with 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_engine_load(path: *const c_char) -> *mut KilnEngine {
    guarded(ptr::null_mut(), || {
        // SAFETY: the caller's word.
        opened(Engine::load(unsafe { text(path, "path") }?)?)
    })
}

/// kiln_engine_load() for an engine that must be signed by the Ed25519 key whose public part is in the file `key` (PEM, DER, or its 32 bytes): the signature is checked before anything
/// else of the engine is looked at.
///
/// # Safety
/// `path` and `key` are texts that end with 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_engine_load_signed(path: *const c_char, key: *const c_char) -> *mut KilnEngine {
    guarded(ptr::null_mut(), || {
        // SAFETY: the caller's word.
        let (path, key) = unsafe { (text(path, "path")?, text(key, "key")?) };
        opened(Engine::load_signed(path, &PublicKey::load(key)?)?)
    })
}

fn opened(engine: Engine) -> Result<*mut KilnEngine, Failure> {
    let ports = |ports: &[Port]| ports.iter().map(Signature::of).collect::<Result<Vec<_>, _>>();
    let (inputs, outputs) = (ports(&engine.inputs)?, ports(&engine.outputs)?);
    Ok(Box::into_raw(Box::new(KilnEngine { engine, inputs, outputs })))
}

/// Lets go of an engine; its sessions stay. Null is nothing to do.
///
/// # Safety
/// `engine` is null, or what kiln_engine_load() gave and nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_engine_free(engine: *mut KilnEngine) {
    guarded((), || {
        if !engine.is_null() {
            // SAFETY: made by `Box::into_raw`, by the caller's word.
            drop(unsafe { Box::from_raw(engine) });
        }
        Ok(())
    });
}

/// How many inputs an engine has; 0 for null.
///
/// # Safety
/// `engine` is null or loaded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_input_count(engine: *const KilnEngine) -> usize {
    // SAFETY: the caller's word.
    guarded(0, || Ok(unsafe { object(engine, "engine") }?.inputs.len()))
}

/// How many outputs an engine has; 0 for null.
///
/// # Safety
/// `engine` is null or loaded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_output_count(engine: *const KilnEngine) -> usize {
    // SAFETY: the caller's word.
    guarded(0, || Ok(unsafe { object(engine, "engine") }?.outputs.len()))
}

/// Writes what the input of a number is to `port`.
///
/// # Safety
/// `engine` is null or loaded, `port` null or room for a port.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_input(engine: *const KilnEngine, index: usize, port: *mut KilnPort) -> KilnStatus {
    // SAFETY: the caller's word.
    guarded(KILN_ERROR, || unsafe { show(&object(engine, "engine")?.inputs, index, port) })
}

/// Writes what the output of a number is to `port`.
///
/// # Safety
/// `engine` is null or loaded, `port` null or room for a port.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_output(engine: *const KilnEngine, index: usize, port: *mut KilnPort) -> KilnStatus {
    // SAFETY: the caller's word.
    guarded(KILN_ERROR, || unsafe { show(&object(engine, "engine")?.outputs, index, port) })
}

/// # Safety
/// `port` is null or room for a port.
unsafe fn show(ports: &[Signature], index: usize, port: *mut KilnPort) -> Result<KilnStatus, Failure> {
    if port.is_null() {
        return fail("`port` is null");
    }
    let Some(Signature { name, dtype, shape }) = ports.get(index) else {
        return fail(format!("there is no number {index}: there are {}", ports.len()));
    };
    let found = KilnPort { name: name.as_ptr(), dtype: *dtype, rank: shape.len(), shape: shape.as_ptr() };
    // SAFETY: not null, and room by the caller's word.
    unsafe { port.write(found) };
    Ok(KILN_OK)
}

/// Loads an engine on a device: `cpu`, `cpu:THREADS`, `cuda:N`, `sim:sm_80`; null if that fails.
///
/// # Safety
/// `engine` is null or loaded, `device` a text that ends with 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_session_new(engine: *const KilnEngine, device: *const c_char) -> *mut KilnSession {
    guarded(ptr::null_mut(), || {
        // SAFETY: the caller's word.
        let (engine, device) = unsafe { (object(engine, "engine")?, text(device, "device")?) };
        let session = Session::new(&engine.engine, open_device(device)?)?;
        Ok(Box::into_raw(Box::new(KilnSession { session })))
    })
}

/// Another session of the same engine on the same device, for another thread: code and weights are in memory once, all else is each session's own.
/// Null if that fails. They may be freed in any order.
///
/// # Safety
/// `session` is null or made, and no other thread uses it meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_session_fork(session: *const KilnSession) -> *mut KilnSession {
    guarded(ptr::null_mut(), || {
        // SAFETY: the caller's word.
        let session = unsafe { object(session, "session") }?.session.fork()?;
        Ok(Box::into_raw(Box::new(KilnSession { session })))
    })
}

/// Lets go of a session. Null is nothing to do.
///
/// # Safety
/// `session` is null, or what kiln_session_new() gave and nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_session_free(session: *mut KilnSession) {
    guarded((), || {
        if !session.is_null() {
            // SAFETY: made by `Box::into_raw`, by the caller's word.
            drop(unsafe { Box::from_raw(session) });
        }
        Ok(())
    });
}

/// Copies the value of an input to the device, where it stays until the input is bound again.
///
/// # Safety
/// `session` is null or made, `name` a text that ends with 0, `shape` has `rank` extents, `data` has `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_bind(
    session: *mut KilnSession,
    name: *const c_char,
    dtype: KilnDType,
    rank: usize,
    shape: *const i64,
    data: *const c_void,
    bytes: usize,
) -> KilnStatus {
    guarded(KILN_ERROR, || {
        // SAFETY: the caller's word.
        let (session, name) = unsafe { (boundary::object_mut(session, "session")?, text(name, "name")?) };
        let Some(&dtype) = DTYPES.get(dtype as usize) else { return fail(format!("{dtype} is no element type")) };
        // SAFETY: the caller's word.
        let (shape, data) = unsafe { (slice(shape, rank, "shape")?, slice(data.cast::<u8>(), bytes, "data")?) };
        session.session.bind_bytes(name, dtype, &extents(name, shape)?, data)?;
        Ok(KILN_OK)
    })
}

/// Binds an input to memory of the caller's, without a copy: each run reads what is there when it is its turn. On a GPU it is device memory of the GPU's
/// primary context at a multiple of 16 bytes, on the CPU memory of this process at a multiple of 64.
///
/// # Safety
/// `session` is null or made, `name` a text that ends with 0, `shape` has `rank` extents. Until the input is bound again or the session is freed, whenever the session is used and
/// until its runs are done: `memory` has `bytes` bytes, initialized on the CPU, which nothing else writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_bind_device(
    session: *mut KilnSession,
    name: *const c_char,
    rank: usize,
    shape: *const i64,
    memory: *mut c_void,
    bytes: usize,
) -> KilnStatus {
    guarded(KILN_ERROR, || {
        // SAFETY: the caller's word.
        let (session, name) = unsafe { (boundary::object_mut(session, "session")?, text(name, "name")?) };
        // SAFETY: the caller's word.
        let (shape, memory) = unsafe { (slice(shape, rank, "shape")?, user_memory(memory, bytes)) };
        session.session.bind_device(name, &extents(name, shape)?, memory)?;
        Ok(KILN_OK)
    })
}

/// From now on runs write an output to memory of the caller's, of a kind as for kiln_bind_device(), until kiln_unbind_output().
///
/// # Safety
/// `session` is null or made, `name` a text that ends with 0. Until the output is unbound, bound again or the session is freed, whenever the session is used and until its runs are done:
/// `memory` has `bytes` bytes, initialized on the CPU, which nothing else uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_bind_output(
    session: *mut KilnSession,
    name: *const c_char,
    memory: *mut c_void,
    bytes: usize,
) -> KilnStatus {
    guarded(KILN_ERROR, || {
        // SAFETY: the caller's word.
        let (session, name) = unsafe { (boundary::object_mut(session, "session")?, text(name, "name")?) };
        // SAFETY: the caller's word.
        session.session.bind_output(name, unsafe { user_memory(memory, bytes) })?;
        Ok(KILN_OK)
    })
}

/// Takes the memory of an output back: runs write it to memory of the session's own again.
///
/// # Safety
/// `session` is null or made, `name` a text that ends with 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_unbind_output(session: *mut KilnSession, name: *const c_char) -> KilnStatus {
    guarded(KILN_ERROR, || {
        // SAFETY: the caller's word.
        let (session, name) = unsafe { (boundary::object_mut(session, "session")?, text(name, "name")?) };
        session.session.unbind_output(name)?;
        Ok(KILN_OK)
    })
}

/// # Safety
/// As for [`UserMemory::new`].
unsafe fn user_memory(memory: *mut c_void, bytes: usize) -> UserMemory {
    // SAFETY: the caller's word.
    unsafe { UserMemory::new(memory.expose_provenance() as u64, bytes) }
}

fn extents(name: &str, shape: &[i64]) -> Result<Vec<usize>, Failure> {
    let extent = |&n: &i64| usize::try_from(n).map_err(|_| format!("input `{name}`: {n} is no extent").into());
    shape.iter().map(extent).collect()
}

/// Runs the model on what is bound. On a GPU the run is queued: kiln_read() and kiln_synchronize() wait for it, and report
/// what goes wrong in it.
///
/// # Safety
/// `session` is null or made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_run(session: *mut KilnSession) -> KilnStatus {
    guarded(KILN_ERROR, || {
        // SAFETY: the caller's word.
        unsafe { boundary::object_mut(session, "session") }?.session.run_bound()?;
        Ok(KILN_OK)
    })
}

/// Waits for all runs that are queued.
///
/// # Safety
/// `session` is null or made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_synchronize(session: *mut KilnSession) -> KilnStatus {
    guarded(KILN_ERROR, || {
        // SAFETY: the caller's word.
        unsafe { boundary::object_mut(session, "session") }?.session.synchronize()?;
        Ok(KILN_OK)
    })
}

/// Writes 1 to `done` if all runs that are queued are done, else 0. Does not wait.
///
/// # Safety
/// `session` is null or made, `done` null or room for an int32_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_is_done(session: *mut KilnSession, done: *mut i32) -> KilnStatus {
    guarded(KILN_ERROR, || {
        if done.is_null() {
            return fail("`done` is null");
        }
        if !done.is_aligned() {
            return fail("`done` is at no multiple of 4");
        }
        // SAFETY: the caller's word.
        let is_done = unsafe { boundary::object_mut(session, "session") }?.session.is_done()?;
        // SAFETY: not null, aligned, and room by the caller's word.
        unsafe { done.write(i32::from(is_done)) };
        Ok(KILN_OK)
    })
}

/// The next runs wait on the GPU for what is queued by now on `stream`, a CUstream or cudaStream_t. Does not wait itself.
///
/// # Safety
/// `session` is null or made, `stream` null (the legacy default stream) or a stream of the primary context of the session's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_wait_for_stream(session: *mut KilnSession, stream: *mut c_void) -> KilnStatus {
    guarded(KILN_ERROR, || {
        // SAFETY: the caller's word.
        let (session, stream) = unsafe { (boundary::object_mut(session, "session")?, user_stream(stream)) };
        session.session.wait_for_stream(stream)?;
        Ok(KILN_OK)
    })
}

/// What is queued from now on on `stream` waits on the GPU for the runs that are queued by now. Does not wait itself.
///
/// # Safety
/// As for kiln_wait_for_stream().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_hold_stream(session: *mut KilnSession, stream: *mut c_void) -> KilnStatus {
    guarded(KILN_ERROR, || {
        // SAFETY: the caller's word.
        let (session, stream) = unsafe { (boundary::object_mut(session, "session")?, user_stream(stream)) };
        session.session.hold_stream(stream)?;
        Ok(KILN_OK)
    })
}

/// # Safety
/// As for [`UserStream::new`].
unsafe fn user_stream(stream: *mut c_void) -> UserStream {
    // SAFETY: the caller's word.
    unsafe { UserStream::new(stream.expose_provenance() as u64) }
}

/// Writes the extents of an output of the last run to `shape`, of which there are `rank`, as many as the output has axes.
///
/// # Safety
/// `session` is null or made, `name` a text that ends with 0, `shape` room for `rank` extents.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_output_shape(
    session: *const KilnSession,
    name: *const c_char,
    rank: usize,
    shape: *mut i64,
) -> KilnStatus {
    guarded(KILN_ERROR, || {
        // SAFETY: the caller's word.
        let (session, name) = unsafe { (object(session, "session")?, text(name, "name")?) };
        let found = session.session.output_shape(name)?;
        if found.len() != rank {
            return fail(format!("output `{name}` has {} axes; there is room for {rank}", found.len()));
        }
        // SAFETY: the caller's word.
        let shape = unsafe { slice_mut(shape, rank, "shape") }?;
        shape.iter_mut().zip(found).for_each(|(to, &from)| *to = from as i64);
        Ok(KILN_OK)
    })
}

/// Copies an output of the last run to `data`, whose bytes are exactly the output's.
///
/// # Safety
/// `session` is null or made, `name` a text that ends with 0, `data` room for `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_read(
    session: *mut KilnSession,
    name: *const c_char,
    data: *mut c_void,
    bytes: usize,
) -> KilnStatus {
    guarded(KILN_ERROR, || {
        // SAFETY: the caller's word.
        let (session, name) = unsafe { (boundary::object_mut(session, "session")?, text(name, "name")?) };
        // SAFETY: the caller's word.
        session.session.read_bytes(name, unsafe { slice_mut(data.cast::<u8>(), bytes, "data") }?)?;
        Ok(KILN_OK)
    })
}

/// The size in bytes of so many elements of a type; 0 for what is no type, or too many.
#[unsafe(no_mangle)]
pub extern "C" fn kiln_bytes(dtype: KilnDType, elements: usize) -> usize {
    DTYPES.get(dtype as usize).and_then(|dtype| dtype.bytes_for(elements)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_may_use_what_they_are_said_to() {
        fn shared<T: Send + Sync>() {}
        fn sent<T: Send>() {}
        shared::<KilnEngine>();
        sent::<KilnSession>();
    }

    #[test]
    fn every_type_has_one_number() {
        for dtype in DType::ALL {
            assert_eq!(DTYPES.iter().filter(|other| **other == dtype).count(), 1, "{dtype}");
        }
        let named = [KILN_F64, KILN_BF16, KILN_F8E5M2, KILN_I64, KILN_U64, KILN_U8, KILN_U4, KILN_BOOL];
        let meant = [DType::F64, DType::BF16, DType::F8E5M2, DType::I64, DType::U64, DType::U8, DType::U4, DType::Bool];
        assert_eq!(named.map(|number| DTYPES[number as usize]), meant);
    }
}
