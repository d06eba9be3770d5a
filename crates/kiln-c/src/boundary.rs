//! What crosses between C and Rust: pointers, which may be null, and failures, which are a text of the thread.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// In words, what went wrong.
pub struct Failure(String);

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure(message)
    }
}

impl From<kiln_engine::Error> for Failure {
    fn from(error: kiln_engine::Error) -> Failure {
        Failure(error.to_string())
    }
}

/// A failure.
pub fn fail<T>(message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure(message.into()))
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// The text of this thread's last failure.
pub fn last() -> *const c_char {
    LAST.with_borrow(|text| text.as_ptr())
}

/// Runs what a function of the interface does. A failure or a panic becomes the thread's error, and `failed` the result.
pub fn guarded<T>(failed: T, run: impl FnOnce() -> Result<T, Failure>) -> T {
    let message = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(result)) => return result,
        Ok(Err(Failure(message))) => message,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            format!("internal error: {}; please report it", text.unwrap_or("a panic"))
        }
    };
    // A text of C ends at its first 0.
    let text = CString::new(message.replace('\0', "\u{fffd}")).unwrap_or_default();
    LAST.set(text);
    failed
}

/// What a pointer points to.
///
/// # Safety
/// It is null, or points to a `T` that nobody changes meanwhile.
pub unsafe fn object<'a, T>(pointer: *const T, name: &str) -> Result<&'a T, Failure> {
    // SAFETY: as above.
    unsafe { pointer.as_ref() }.ok_or_else(|| Failure(format!("`{name}` is null")))
}

/// What a pointer points to.
///
/// # Safety
/// It is null, or points to a `T` that nobody else uses meanwhile.
pub unsafe fn object_mut<'a, T>(pointer: *mut T, name: &str) -> Result<&'a mut T, Failure> {
    // SAFETY: as above.
    unsafe { pointer.as_mut() }.ok_or_else(|| Failure(format!("`{name}` is null")))
}

/// A text of C.
///
/// # Safety
/// It is null, or ends with 0.
pub unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Result<&'a str, Failure> {
    if pointer.is_null() {
        return fail(format!("`{name}` is null"));
    }
    // SAFETY: not null, and ends by the caller's word.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Failure(format!("`{name}` is not UTF-8: {text:?}")))
}

/// An array of C. Without elements it may be null.
///
/// # Safety
/// It is null, or has so many elements that nobody changes meanwhile.
pub unsafe fn slice<'a, T>(pointer: *const T, length: usize, name: &str) -> Result<&'a [T], Failure> {
    check(pointer, length, name)?;
    if length == 0 {
        return Ok(&[]);
    }
    // SAFETY: aligned, not null, no longer than an object can be, and so long by the caller's word.
    Ok(unsafe { std::slice::from_raw_parts(pointer, length) })
}

/// An array of C to write to. Without elements it may be null.
///
/// # Safety
/// It is null, or has so many elements, initialized or of a type of plain bytes, that nobody else uses meanwhile.
pub unsafe fn slice_mut<'a, T>(pointer: *mut T, length: usize, name: &str) -> Result<&'a mut [T], Failure> {
    check(pointer, length, name)?;
    if length == 0 {
        return Ok(&mut []);
    }
    // SAFETY: aligned, not null, no longer than an object can be, and so long by the caller's word.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, length) })
}

fn check<T>(pointer: *const T, length: usize, name: &str) -> Result<(), Failure> {
    if length == 0 {
        return Ok(());
    }
    if pointer.is_null() {
        return fail(format!("`{name}` is null"));
    }
    if !pointer.is_aligned() {
        return fail(format!("`{name}` is not aligned to {} bytes", align_of::<T>()));
    }
    match length.checked_mul(size_of::<T>()) {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(()),
        _ => fail(format!("`{name}` has {length} elements, which no memory holds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error() {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let result = guarded(7, || panic!("at {}", 3));
        std::panic::set_hook(hook);
        // SAFETY: it is a text of this thread.
        let text = unsafe { CStr::from_ptr(last()) }.to_str().unwrap();
        assert_eq!((result, text), (7, "internal error: at 3; please report it"));
    }
}
