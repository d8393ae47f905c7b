//! The images of all sources, compiled in parallel when the first of them is needed: a job then waits for
//! the longest of them instead of for one after the other, and none is compiled in the middle of it.
//! Those of bf16 kernels wait for the first of their own. No thread is left behind, because a process
//! must not end while NVRTC is at work.

use crate::device::Source;
use crate::device::kernels::SOURCES;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Compiles a source to an image; `None` if that fails.
type Compile = dyn Fn(&'static Source) -> Option<Vec<u8>> + Send + Sync;

/// A source and its image, once it is compiled.
type Compiled = (&'static Source, OnceLock<Option<Vec<u8>>>);

pub struct Images {
    compile: Box<Compile>,
    /// Without bf16, and with it.
    compiled: [OnceLock<Vec<Compiled>>; 2],
}

/// Whether a kernel of this source reads or writes bf16.
fn has_bf16(source: &Source) -> bool {
    source.kernels.iter().any(|kernel| kernel.signature.contains("bf16"))
}

impl Images {
    pub fn new(compile: impl Fn(&'static Source) -> Option<Vec<u8>> + Send + Sync + 'static) -> Images {
        Images { compile: Box::new(compile), compiled: Default::default() }
    }

    /// The image of a source; `None` if it does not compile, or is not one of [`SOURCES`]. The first call
    /// compiles all, or all with bf16.
    pub fn get(&self, source: &Source) -> Option<&[u8]> {
        let bf16 = has_bf16(source);
        let compiled = self.compiled[usize::from(bf16)].get_or_init(|| self.compile_all(bf16));
        let (_, image) = compiled.iter().find(|(other, _)| other.name == source.name)?;
        image.get()?.as_deref()
    }

    fn compile_all(&self, bf16: bool) -> Vec<Compiled> {
        let mut sources: Vec<&Source> =
            SOURCES.iter().copied().filter(|source| has_bf16(source) == bf16).collect();
        // The longest first: none of them is left for the end.
        sources.sort_by_key(|source| std::cmp::Reverse(source.text.len()));
        let images: Vec<_> = sources.into_iter().map(|source| (source, OnceLock::new())).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((source, image)) = images.get(next.fetch_add(1, Ordering::Relaxed)) {
                image.get_or_init(|| (self.compile)(source));
            }
        };
        std::thread::scope(|scope| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            for _ in 1..cores.min(images.len()) {
                // Where no thread can be made the others do the work.
                std::thread::Builder::new().name("nvrtc".into()).spawn_scoped(scope, work).ok();
            }
            work();
        });
        images
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn every_source_is_compiled_once_whoever_asks() {
        let compiled = Arc::new(AtomicUsize::new(0));
        let count = compiled.clone();
        let images = Images::new(move |source| {
            count.fetch_add(1, Ordering::Relaxed);
            (source.file != "add.cu").then_some(source.file.as_bytes().to_vec())
        });
        assert_eq!(compiled.load(Ordering::Relaxed), 0, "nothing is compiled before it is needed");
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for source in SOURCES.iter().rev() {
                        let expected = (source.file != "add.cu").then_some(source.file.as_bytes());
                        assert_eq!(images.get(source), expected);
                    }
                });
            }
        });
        assert_eq!(compiled.load(Ordering::Relaxed), SOURCES.len());
    }
}
