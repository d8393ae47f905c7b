//! Compilation ahead of use: all sources, in parallel, from the moment a device is opened. The first step of
//! a job then waits for the longest of them instead of for one after the other.

use crate::device::Source;
use crate::device::kernels::SOURCES;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// Compiles a source to an image; `None` if that fails.
type Compile = dyn Fn(&'static Source) -> Option<Vec<u8>> + Send + Sync;

/// The images of all sources.
pub struct Ahead {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    compile: Box<Compile>,
    /// The longest source first, and its image when it has been asked for.
    images: Vec<(&'static Source, OnceLock<Option<Vec<u8>>>)>,
    next: AtomicUsize,
    stopped: AtomicBool,
}

impl Ahead {
    /// Starts to compile on all cores.
    pub fn start(compile: impl Fn(&'static Source) -> Option<Vec<u8>> + Send + Sync + 'static) -> Ahead {
        let mut sources = SOURCES.to_vec();
        sources.sort_by_key(|source| std::cmp::Reverse(source.text.len()));
        let shared = Arc::new(Shared {
            compile: Box::new(compile),
            images: sources.into_iter().map(|source| (source, OnceLock::new())).collect(),
            next: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let worker = |_| {
            let shared = shared.clone();
            std::thread::Builder::new().name("nvrtc".into()).spawn(move || shared.work())
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Without threads every source is compiled when it is asked for.
        let workers = (0..cores.min(SOURCES.len())).map_while(|number| worker(number).ok()).collect();
        Ahead { shared, workers }
    }

    /// The image of a source, once it is compiled; `None` if it does not compile, or is not one of
    /// [`SOURCES`].
    pub fn image(&self, source: &Source) -> Option<&[u8]> {
        let found = self.shared.images.iter().position(|(other, _)| other.file == source.file)?;
        self.shared.image(found)
    }
}

impl Shared {
    fn work(&self) {
        while !self.stopped.load(Ordering::Relaxed) {
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            if next >= self.images.len() {
                return;
            }
            self.image(next);
        }
    }

    fn image(&self, index: usize) -> Option<&[u8]> {
        let (source, image) = &self.images[index];
        image.get_or_init(|| (self.compile)(source)).as_deref()
    }
}

impl Drop for Ahead {
    /// Waits for what is being compiled: the process may end next, and NVRTC must not be at work then.
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            // A worker that panicked left its source to the thread that asks for it.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_compiled_once_whoever_asks() {
        let compiled = Arc::new(AtomicUsize::new(0));
        let count = compiled.clone();
        let ahead = Ahead::start(move |source| {
            count.fetch_add(1, Ordering::Relaxed);
            (source.file != "add.cu").then(|| source.file.as_bytes().to_vec())
        });
        for source in SOURCES.iter().rev() {
            let expected = (source.file != "add.cu").then_some(source.file.as_bytes());
            assert_eq!(ahead.image(source), expected);
        }
        assert_eq!(compiled.load(Ordering::Relaxed), SOURCES.len());
    }

    #[test]
    fn dropping_it_leaves_the_rest_uncompiled() {
        let compiled = Arc::new(AtomicUsize::new(0));
        let count = compiled.clone();
        drop(Ahead::start(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(20));
            None
        }));
        assert!(compiled.load(Ordering::Relaxed) < SOURCES.len());
    }
}
