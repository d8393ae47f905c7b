//! Tables of handles. A handle is a number that only its table can turn into the object.

use crate::codes::Code;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A handle as C passes it: an opaque pointer. Null is 0.
pub type Handle = u64;

/// Objects of one kind by handle.
pub struct Table<T> {
    objects: Mutex<HashMap<Handle, Arc<T>>>,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table { objects: Mutex::default() }
    }
}

impl<T> Table<T> {
    fn objects(&self) -> MutexGuard<'_, HashMap<Handle, Arc<T>>> {
        lock(&self.objects)
    }

    pub fn insert(&self, handle: Handle, object: Arc<T>) {
        self.objects().insert(handle, object);
    }

    pub fn get(&self, handle: Handle) -> Option<Arc<T>> {
        self.objects().get(&handle).cloned()
    }

    /// The object; the error names what was expected.
    pub fn find(&self, handle: Handle, kind: &str) -> Result<Arc<T>, crate::call::Refusal> {
        self.get(handle).ok_or_else(|| unknown(handle, kind))
    }

    pub fn remove(&self, handle: Handle, kind: &str) -> Result<Arc<T>, crate::call::Refusal> {
        self.objects().remove(&handle).ok_or_else(|| unknown(handle, kind))
    }

    pub fn retain(&self, keep: impl Fn(&T) -> bool) {
        self.objects().retain(|_, object| keep(object));
    }
}

fn unknown(handle: Handle, kind: &str) -> crate::call::Refusal {
    Code::INVALID_HANDLE.because(format!("{handle:#x} is no live {kind}"))
}

/// A number that no other object of any kind ever has, and that is no address of a usual process.
pub fn fresh() -> Handle {
    static NEXT: AtomicU64 = AtomicU64::new(0x5f_c0de_0010);
    NEXT.fetch_add(0x10, Ordering::Relaxed)
}

/// Locks although a thread may have panicked with the lock held: the driver's state stays readable.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
