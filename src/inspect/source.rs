//! Sources with the counts of each line, summed over all launches.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::device::LaunchCost;
use crate::device::kernels::{HEADERS, SOURCES};
use ptx::Tally;

/// A line at or above this share of all instructions is hot.
pub const HOT: f64 = 0.05;
/// What is worth a line of its own in a short list.
pub const NOTABLE: f64 = 0.005;

/// A source file that something ran of.
#[derive(Clone, Serialize)]
pub struct SourceFile {
    /// Inside `kernels/`.
    pub file: String,
    pub lines: Vec<SourceLine>,
}

/// A line with what its instructions cost; those of inlined functions count at their own lines.
#[derive(Clone, Serialize)]
pub struct SourceLine {
    pub number: usize,
    pub text: String,
    pub tally: Tally,
    /// Warp instructions in functions that are inlined here.
    pub inlined: u64,
    /// Of the warp instructions, of the sectors of global memory and of the wavefronts of shared memory.
    pub share: f64,
    pub share_sectors: f64,
    pub share_wavefronts: f64,
    pub share_inlined: f64,
}

impl SourceLine {
    pub fn ran(&self) -> bool {
        self.tally.warp_instructions > 0 || self.inlined > 0
    }

    pub fn is_hot(&self) -> bool {
        self.share >= HOT
    }

    /// Whether it has a part worth mentioning of anything.
    pub fn is_notable(&self) -> bool {
        [self.share, self.share_sectors, self.share_wavefronts, self.share_inlined]
            .iter()
            .any(|share| *share >= NOTABLE)
    }
}

/// A file of `kernels/` and its text, by a path that ends in it.
fn text_of(path: &str) -> Option<(&'static str, &'static str)> {
    let sources = SOURCES.iter().map(|source| (source.file, source.text));
    let mut all = HEADERS.iter().copied().chain(sources);
    all.find(|(file, _)| path.strip_suffix(file).is_some_and(|rest| rest.is_empty() || rest.ends_with('/')))
}

/// The sources of all launches with their counts, those with the most instructions first.
pub(super) fn annotated(costs: &[LaunchCost]) -> Vec<SourceFile> {
    let mut lines = BTreeMap::<(&str, u32), (Tally, u64)>::new();
    let mut total = Tally::default();
    for cost in costs {
        let Some(counts) = &cost.counts else { continue };
        total.add(&counts.total.times(cost.times));
        for line in &counts.lines {
            if let Some((file, _)) = text_of(&line.file) {
                let (tally, inlined) = lines.entry((file, line.line)).or_default();
                tally.add(&line.tally.times(cost.times));
                *inlined += line.inlined * cost.times;
            }
        }
    }
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let files: std::collections::BTreeSet<&str> = lines.keys().map(|(file, _)| *file).collect();
    let mut files: Vec<SourceFile> = files
        .into_iter()
        .filter_map(|file| {
            let line = |(number, text): (usize, &str)| {
                let (tally, inlined) = lines.get(&(file, number as u32)).copied().unwrap_or_default();
                SourceLine {
                    number,
                    text: text.into(),
                    tally,
                    inlined,
                    share: share(tally.warp_instructions, total.warp_instructions),
                    share_sectors: share(tally.sectors, total.sectors),
                    share_wavefronts: share(tally.wavefronts, total.wavefronts),
                    share_inlined: share(inlined, total.warp_instructions),
                }
            };
            let (_, text) = text_of(file)?;
            Some(SourceFile { file: file.into(), lines: (1..).zip(text.lines()).map(line).collect() })
        })
        .collect();
    let instructions =
        |file: &SourceFile| file.lines.iter().map(|line| line.tally.warp_instructions).sum::<u64>();
    files.sort_by_key(|file| std::cmp::Reverse(instructions(file)));
    files
}

#[cfg(test)]
mod tests {
    use super::text_of;

    #[test]
    fn sources_are_found_by_the_end_of_a_path() {
        assert_eq!(text_of("add.cu").unwrap().0, "add.cu");
        assert_eq!(text_of("/a/b/lib/vec.cuh").unwrap().0, "lib/vec.cuh");
        assert!(text_of("no_add.cu").is_none() && text_of("vec.cuh").is_none());
    }
}
