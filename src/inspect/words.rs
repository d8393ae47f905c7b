//! The words and numbers of a report, for tables and pages alike.

use super::report::{KernelReport, Report};
use super::source::SourceLine;
use ptx::bound::{Resource, efficiency};

/// A number with three digits and its prefix: `12.3 M`.
pub fn si(value: f64) -> String {
    let (mut scaled, mut prefix) = (value, "");
    for next in [" k", " M", " G", " T", " P"] {
        if scaled < 999.5 {
            break;
        }
        scaled /= 1000.0;
        prefix = next;
    }
    let digits = if scaled >= 99.95 || (prefix.is_empty() && value.fract() == 0.0) {
        0
    } else if scaled >= 9.995 {
        1
    } else {
        2
    };
    format!("{scaled:.digits$}{prefix}")
}

/// Bytes: `12.3 MB`.
pub fn bytes(value: u64) -> String {
    let text = si(value as f64);
    if text.contains(' ') { text + "B" } else { text + " B" }
}

/// A time: `12.3 us`.
pub fn time(seconds: f64) -> String {
    let (scale, unit) = match seconds {
        0.0 => (1e6, "us"),
        ..999.5e-9 => (1e9, "ns"),
        ..999.5e-6 => (1e6, "us"),
        ..999.5e-3 => (1e3, "ms"),
        _ => (1.0, "s"),
    };
    let value = seconds * scale;
    let digits = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {unit}")
}

fn percent(share: f64) -> String {
    format!("{share:.0} %")
}

/// How much more than the least: `1.50x`.
fn ratio(asked: u64, least: u64) -> String {
    if least == 0 { String::new() } else { format!("{:.2}x", asked as f64 / least as f64) }
}

/// The headings of [`KernelReport::cells`].
pub const HEADINGS: [&str; 14] = [
    "kernel",
    "launches",
    "blocks",
    "threads",
    "registers",
    "shared",
    "occupancy",
    "instructions",
    "lanes",
    "FLOP",
    "sectors",
    "wavefronts",
    "at least, all",
    "bound by",
];

/// The headings that numbers stand under.
pub const NUMBERS: [usize; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

impl KernelReport {
    /// A row of the table; the time is that of all launches.
    pub fn cells(&self) -> [String; 14] {
        let Occupied { share, .. } = self.occupied();
        let total = &self.total;
        [
            self.kernel.into(),
            self.times.to_string(),
            si(self.blocks as f64),
            self.threads.to_string(),
            self.registers.to_string(),
            bytes((self.static_shared + self.dynamic_shared) as u64),
            share,
            si(total.warp_instructions as f64),
            percent(total.active_lanes()),
            si(total.flops() as f64),
            ratio(total.sectors, total.sectors_least),
            ratio(total.wavefronts, total.wavefronts_least),
            time(self.all_cold()),
            self.bounds.binding().map_or("", Resource::name).into(),
        ]
    }

    fn occupied(&self) -> Occupied {
        let occupancy = &self.occupancy;
        let share = percent(100.0 * occupancy.share);
        let detail = format!(
            "{share}: {} blocks ({} warps) on a multiprocessor at once, limited by {}",
            occupancy.blocks,
            occupancy.warps,
            occupancy.limiter.name()
        );
        Occupied { share, detail }
    }

    /// The title of its section.
    pub fn title(&self) -> String {
        let [x, y, z] = self.grid;
        let times = if self.times == 1 { String::new() } else { format!(", launched {} times", self.times) };
        format!(
            "{} (kernels/{}), grid {x}x{y}x{z} of {} threads{times}",
            self.kernel, self.file, self.threads
        )
    }

    /// Everything about one launch, by name.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let total = &self.total;
        let counted = match self.counted == self.blocks {
            true => format!("all {} blocks", self.blocks),
            false => format!("{} of {} blocks, from which all are estimated", self.counted, self.blocks),
        };
        let stack =
            if self.stack > 0 { format!(", {} of stack", bytes(self.stack.into())) } else { String::new() };
        let flops = [
            ("FMA", total.flops_fma),
            ("other float", total.flops_float),
            ("special", total.flops_special),
            ("half", total.flops_half),
            ("tensor", total.flops_tensor),
        ];
        let flops: Vec<String> = flops
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(unit, count)| format!("{unit} {}", si(count as f64)))
            .collect();
        let flops = if flops.is_empty() { "none".into() } else { flops.join(", ") };
        let classes =
            self.categories.iter().filter(|(_, tally)| tally.warp_instructions > 0).map(|(class, tally)| {
                let share = efficiency(tally.warp_instructions, total.warp_instructions);
                (share, format!("{} {share:.1} %", format!("{class:?}").to_lowercase()))
            });
        let mut classes: Vec<(f64, String)> = classes.collect();
        classes.sort_by(|a, b| b.0.total_cmp(&a.0));
        let classes: Vec<String> = classes.into_iter().map(|(_, text)| text).collect();
        let conflicts = total.wavefronts.saturating_sub(total.wavefronts_least);
        let shared = match total.wavefronts {
            0 => "not used".into(),
            all => format!(
                "{} asked; {} wavefronts by the model, at least {}: {} of them conflicts",
                bytes(total.shared_bytes),
                si(all as f64),
                si(total.wavefronts_least as f64),
                si(conflicts as f64)
            ),
        };
        let copies = match total.async_bytes {
            0 => "none".into(),
            all => format!("{}, at most {} in flight in a block", bytes(all), bytes(self.async_in_flight)),
        };
        let waves = self.bounds.waves.map_or("no block fits".into(), |waves| format!("{waves:.2} waves"));
        let mut facts = vec![
            ("counted", counted),
            ("registers", format!("{} per thread{stack}", self.registers)),
            (
                "shared memory",
                format!(
                    "{} static, {} dynamic",
                    bytes(self.static_shared.into()),
                    bytes(self.dynamic_shared.into())
                ),
            ),
            ("occupancy", self.occupied().detail),
            (
                "grid",
                format!(
                    "{waves}; multiprocessors busy {} of the time at best",
                    percent(100.0 * self.bounds.balance)
                ),
            ),
            (
                "instructions",
                format!(
                    "{} warp instructions, {:.1} % of lanes active",
                    si(total.warp_instructions as f64),
                    total.active_lanes()
                ),
            ),
            ("classes", classes.join(", ")),
            ("FLOP", flops),
            (
                "global memory",
                format!(
                    "{} read, {} written; {} sectors, {:.0} % of them necessary; distinct: {} read, {} \
                     written",
                    bytes(total.global_loaded),
                    bytes(total.global_stored),
                    si(total.sectors as f64),
                    efficiency(total.sectors_least, total.sectors),
                    bytes(self.distinct_read),
                    bytes(self.distinct_written)
                ),
            ),
            ("shared accesses", shared),
            ("async copies", copies),
            ("barriers", format!("{} reached by warps", si(total.barriers as f64))),
        ];
        if total.local_bytes > 0 {
            facts.push(("local memory", bytes(total.local_bytes)));
        }
        facts.push((
            "at least",
            format!(
                "{} with data in DRAM ({}), {} with data in L2",
                time(self.bounds.cold),
                self.bounds.binding().map_or("nothing", Resource::name),
                time(self.bounds.warm)
            ),
        ));
        facts
    }

    /// The least time of each resource, in words.
    pub fn limits(&self) -> Vec<(&'static str, String)> {
        let note =
            |resource| if Resource::is_estimate(resource) { " (an estimate, in no bound)" } else { "" };
        let limits = self.bounds.limits.iter();
        limits.map(|limit| (limit.resource.name(), time(limit.seconds) + note(limit.resource))).collect()
    }
}

struct Occupied {
    share: String,
    detail: String,
}

impl SourceLine {
    /// Share, instructions, those of functions inlined here, lanes, sectors, wavefronts; empty where there is
    /// nothing to say.
    pub fn cells(&self) -> [String; 6] {
        if !self.ran() {
            return Default::default();
        }
        let tally = &self.tally;
        let asked = |count: u64, least: u64| match count {
            0 => String::new(),
            _ => format!("{} {}", si(count as f64), ratio(count, least)),
        };
        [
            format!("{:.1} %", 100.0 * self.share),
            si(tally.warp_instructions as f64),
            if self.inlined == 0 { String::new() } else { si(self.inlined as f64) },
            if tally.warp_instructions == 0 { String::new() } else { percent(tally.active_lanes()) },
            asked(tally.sectors, tally.sectors_least),
            asked(tally.wavefronts, tally.wavefronts_least),
        ]
    }
}

/// The headings of [`SourceLine::cells`].
pub const LINE_HEADINGS: [&str; 6] = ["share", "instructions", "inlined", "lanes", "sectors", "wavefronts"];

/// The headings of [`Report::by_kernel`].
pub const KERNEL_HEADINGS: [&str; 4] = ["kernel", "launches", "at least", "share"];

impl Report {
    /// The bounds of each kernel, over all its launches.
    pub fn by_kernel(&self) -> Vec<[String; 4]> {
        let mut sums: Vec<(&str, u64, f64)> = Vec::new();
        for launch in &self.kernels {
            let at = sums.iter().position(|(kernel, ..)| *kernel == launch.kernel).unwrap_or_else(|| {
                sums.push((launch.kernel, 0, 0.0));
                sums.len() - 1
            });
            sums[at].1 += launch.times;
            sums[at].2 += launch.all_cold();
        }
        sums.sort_by(|a, b| b.2.total_cmp(&a.2));
        let row = |(kernel, launches, seconds): (&str, u64, f64)| {
            let share = format!("{:.1} %", 100.0 * seconds / self.cold.max(f64::MIN_POSITIVE));
            [kernel.into(), launches.to_string(), time(seconds), share]
        };
        sums.into_iter().map(row).collect()
    }

    pub fn title(&self) -> String {
        let of = if self.what == self.operation { String::new() } else { format!("{} in ", self.what) };
        format!("{of}{} ({})", self.operation, self.detail)
    }

    /// How the counts were made, in sentences.
    pub fn method(&self) -> String {
        let values = match self.blocks {
            Some(blocks) => format!(
                "Each different launch ran once, at most {blocks} of its blocks: costs of all are estimated \
                 from these, values were not computed, and what depends on values may differ."
            ),
            None => {
                "All blocks ran, and values were computed; each different launch was counted at its first \
                     run."
                    .into()
            }
        };
        format!(
            "{values} Counts are those of the PTX, of one launch; registers and shared memory are ptxas's \
             for {}.",
            self.arch
        )
    }

    /// The sum of the bounds, in a sentence.
    pub fn sum(&self) -> String {
        let sampled = self.kernels.iter().any(|kernel| kernel.counted < kernel.blocks);
        format!(
            "On an {} this cannot take less than {} when each kernel's data starts and ends in DRAM, and {} \
             when the L2 cache holds it all{}. These are bounds, no predictions: a kernel takes longer, \
             often much longer.",
            self.gpu.title,
            time(self.cold),
            time(self.warm),
            if sampled { ", both estimated from a sample of the blocks" } else { "" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let numbers = [0.0, 7.0, 999.0, 1000.0, 12_345.0, 999_600.0, 2.5e9, 0.25].map(si);
        assert_eq!(numbers, ["0", "7", "999", "1.00 k", "12.3 k", "1.00 M", "2.50 G", "0.25"]);
        assert_eq!(
            [0.0, 2.5e-8, 1.25e-5, 0.75e-3, 2.0].map(time),
            ["0.00 us", "25.0 ns", "12.5 us", "750 us", "2.00 s"]
        );
        assert_eq!(
            (bytes(512), bytes(49_152), ratio(3, 2), ratio(3, 0)),
            ("512 B".into(), "49.2 kB".into(), "1.50x".into(), String::new())
        );
    }
}
