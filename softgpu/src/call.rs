//! What every call goes through: injected errors, initialisation, the current context, faults, messages.

use crate::codes::Code;
use crate::driver::{self, Driver};
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

/// Why a call fails: the code that it returns, and a line for people.
#[derive(Debug)]
pub struct Refusal {
    pub code: Code,
    /// Empty where the code is an answer and no mistake of the program.
    pub reason: String,
}

pub type Outcome<T = ()> = Result<T, Refusal>;

impl Code {
    pub fn because(self, reason: impl Into<String>) -> Refusal {
        Refusal { code: self, reason: reason.into() }
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Refusal {
        code.because("")
    }
}

/// What a call needs before its body runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing, not even `cuInit`.
    Nothing,
    /// `cuInit`.
    Init,
    /// A current context, and no fault of an earlier kernel.
    Context,
    /// A current context. After a fault the body still runs, and the call returns the fault.
    Cleanup,
}

/// Defines C functions of the driver, each with what it needs, and the list of them.
macro_rules! calls {
    ($($(#[$meta:meta])* $need:ident $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$meta])*
            // SAFETY: no other library of a process that uses this one defines the name; that is its purpose.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case)]
            pub extern "C" fn $name($($arg: $type),*) -> u32 {
                $crate::call::enter(stringify!($name), $crate::call::Need::$need, || $body)
            }
        )*

        /// The functions of this file.
        pub const CALLS: &[(&str, *const ())] = &[$((stringify!($name), $name as *const ())),*];
    };
}

/// Runs the body of a call, and turns what it returns into the driver's result.
pub fn enter(name: &'static str, need: Need, body: impl FnOnce() -> Outcome) -> u32 {
    let Some(driver) = driver::get() else { return Code::SYSTEM_NOT_READY.0 };
    let outcome = catch_unwind(AssertUnwindSafe(|| checked(driver, name, need, body)));
    let outcome = outcome.unwrap_or_else(|_| Err(Code::UNKNOWN.because("the software driver panicked")));
    let code = outcome.as_ref().map_or_else(|refusal| refusal.code, |()| Code::SUCCESS);
    match outcome {
        Err(Refusal { reason, .. }) if !reason.is_empty() => say(&format!("{name}: {code}: {reason}")),
        _ if driver.options.trace => say(&format!("{name}: {code}")),
        _ => {}
    }
    code.0
}

fn checked(driver: &Driver, name: &str, need: Need, body: impl FnOnce() -> Outcome) -> Outcome {
    driver.injected(name)?;
    if crate::work::in_callback() {
        return Err(Code::NOT_PERMITTED.because("a callback of a stream must not call the driver"));
    }
    if need != Need::Nothing && !driver.initialised.load(Ordering::Acquire) {
        return Err(Code::NOT_INITIALIZED.because("cuInit was not called"));
    }
    if matches!(need, Need::Context | Need::Cleanup) {
        driver.current()?;
    }
    match need {
        Need::Context => driver.fault().map_or(Ok(()), |code| Err(code.into())).and_then(|()| body()),
        Need::Cleanup => body().and_then(|()| driver.fault().map_or(Ok(()), |code| Err(code.into()))),
        Need::Nothing | Need::Init => body(),
    }
}

/// One line to the terminal.
pub fn say(line: &str) {
    eprintln!("softgpu: {line}");
}

/// Where a call puts a result.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes a result that the caller must have room for.
    pub fn set(&self, value: T) -> Outcome {
        self.present()?;
        // SAFETY: not null; that it points to a T is the promise of the C function's caller.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Writes a result that the caller may not want.
    pub fn set_if_wanted(&self, value: T) -> Outcome {
        if self.0.is_null() { Ok(()) } else { self.set(value) }
    }

    /// What the caller left there.
    pub fn get(&self) -> Outcome<T>
    where
        T: Copy,
    {
        self.present()?;
        // SAFETY: as above.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// Checks that there is a place for the result, before a call makes something.
    pub fn present(&self) -> Outcome {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE.because("the pointer for the result is null"));
        }
        Ok(())
    }

    /// Writes a text and its 0 into `len` bytes; a longer text is cut.
    pub fn text(&self, text: &str, len: usize) -> Outcome {
        self.present()?;
        if len == 0 {
            return Err(Code::INVALID_VALUE.because("the buffer for the text has no bytes"));
        }
        let count = text.len().min(len - 1);
        // SAFETY: the caller promises `len` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), self.0.cast::<u8>(), count);
            self.0.cast::<u8>().add(count).write(0);
        }
        Ok(())
    }
}

/// A C string that a call reads.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(*const c_char);

impl Text {
    pub fn get<'a>(self) -> Outcome<&'a str> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE.because("a text is null"));
        }
        // SAFETY: not null; that a 0 ends it is the promise of the C function's caller.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map_err(|_| Code::INVALID_VALUE.because("a text is not UTF-8"))
    }
}
