//! Random numbers that are keyed by their purpose: Philox4x32-10, the same generator as in
//! `kernels/lib/philox.cuh`.
//!
//! There is no generator state. A number is a function of a [`Key`] and a counter, so that a resumed run, a
//! different batch size or device draws the same numbers.

/// The purpose of a kernel's random numbers; each has numbers of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Purpose {
    /// Starts of attacks in training.
    AttackStart = 1,
    /// Starts of attacks in evaluation.
    EvalStart = 2,
    /// Crops and flips.
    Augment = 3,
    /// Starts of APGD; the epoch is the loss, the view the restart, and the kernel's view the rank of the
    /// target.
    Apgd = 4,
    /// Windows, signs and starts of the Square attack.
    Square = 6,
    /// Restarts of the FAB attack.
    Fab = 7,
}

/// The name of a set of random numbers, one for each place in each image of a data set. Kernels get
/// [`Key::bits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub seed: u64,
    pub purpose: Purpose,
    pub epoch: u32,
    /// Tells apart draws for the same images in one epoch: views, restarts.
    pub view: u32,
}

/// Last counter words: of the key that belongs to a [`Key`] or to a name, and of a stream's numbers. Kernels
/// use 0 and 1 (`philox.cuh`).
const DERIVE: u32 = 0x5add_1e00;
const NAMED: u32 = 0x5add_1e01;
const STREAM: u32 = 2;

impl Key {
    pub fn new(seed: u64, purpose: Purpose, epoch: u32, view: u32) -> Key {
        Key { seed, purpose, epoch, view }
    }

    /// The 64-bit key of Philox that belongs to this name.
    pub fn bits(self) -> u64 {
        joined(philox(self.seed, [self.purpose as u32, self.epoch, self.view, DERIVE]))
    }
}

/// The first two words as one number.
fn joined([low, high, ..]: [u32; 4]) -> u64 {
    (high as u64) << 32 | low as u64
}

/// Philox4x32-10: four random words from a key and a counter.
pub fn philox(key: u64, counter: [u32; 4]) -> [u32; 4] {
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    for _ in 0..10 {
        let (a, b) = (0xd251_1f53 * c0 as u64, 0xcd9e_8d57 * c2 as u64);
        (c0, c1, c2, c3) = ((b >> 32) as u32 ^ c1 ^ k0, b as u32, (a >> 32) as u32 ^ c3 ^ k1, a as u32);
        k0 = k0.wrapping_add(0x9e37_79b9);
        k1 = k1.wrapping_add(0xbb67_ae85);
    }
    [c0, c1, c2, c3]
}

/// A sequence of random numbers on the CPU, for values that are drawn once: initial weights, orders, weights
/// of mixtures.
#[derive(Clone, Debug)]
pub struct Stream {
    key: u64,
    block: u64,
    words: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream that belongs to a seed and a name.
    pub fn new(seed: u64, name: &str) -> Stream {
        // FNV-1a: names that differ get other counters.
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3));
        let key = joined(philox(seed, [hash as u32, (hash >> 32) as u32, name.len() as u32, NAMED]));
        Stream { key, block: 0, words: [0; 4], used: 4 }
    }

    fn word(&mut self) -> u32 {
        if self.used == 4 {
            self.words = philox(self.key, [self.block as u32, (self.block >> 32) as u32, 0, STREAM]);
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let high = self.word() as u64;
        high << 32 | self.word() as u64
    }

    /// Uniform in [0, 1), a multiple of 2^-24.
    pub fn uniform(&mut self) -> f32 {
        (self.word() >> 8) as f32 / (1u32 << 24) as f32
    }

    /// Uniform in [0, 1), a multiple of 2^-53.
    fn fine(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0..n, without bias; 0 for n = 0.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        // A multiple of n lies so near to 2^64 that numbers above the last whole one are drawn again
        // (Lemire).
        let rest = if n == 0 { 0 } else { n.wrapping_neg() % n };
        loop {
            let product = self.bits() as u128 * n as u128;
            if product as u64 >= rest {
                return (product >> 64) as usize;
            }
        }
    }

    /// Every order of `items` with the same probability (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.fine()).ln()).sqrt() * (std::f64::consts::TAU * self.fine()).cos()
    }

    /// Gamma with shape `a` > 0 and scale 1, by Marsaglia and Tsang's rejection.
    fn gamma(&mut self, a: f64) -> f64 {
        if a < 1.0 {
            return self.gamma(a + 1.0) * (1.0 - self.fine()).powf(1.0 / a);
        }
        let d = a - 1.0 / 3.0;
        loop {
            let x = self.normal();
            let v = (1.0 + x / (9.0 * d).sqrt()).powi(3);
            if v > 0.0 && (1.0 - self.fine()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }

    /// Beta with both parameters > 0.
    pub fn beta(&mut self, a: f64, b: f64) -> f64 {
        let (x, y) = (self.gamma(a), self.gamma(b));
        if x + y > 0.0 { x / (x + y) } else { 0.5 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that are published with the Random123 library (`kat_vectors`, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(philox(0, [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox(u64::MAX, [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let digits_of_pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(
            philox(0x299f_31d0_a409_3822, digits_of_pi),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn every_part_of_a_key_matters() {
        let key = |seed, purpose, epoch, view| Key::new(seed, purpose, epoch, view).bits();
        use Purpose::{Augment, EvalStart};
        let keys = [
            key(7, Augment, 0, 0),
            key(8, Augment, 0, 0),
            key(7 << 32, Augment, 0, 0),
            key(7, EvalStart, 0, 0),
            key(7, Augment, 1, 0),
        ];
        let all: std::collections::HashSet<u64> = keys.into_iter().chain([key(7, Augment, 0, 1)]).collect();
        assert_eq!(all.len(), 6);
        let first = |seed, name| Stream::new(seed, name).bits();
        assert_eq!(first(1, "a"), first(1, "a"));
        assert_eq!(
            std::collections::HashSet::from([first(1, "a"), first(2, "a"), first(1, "b"), first(1, "")])
                .len(),
            4
        );
    }

    fn moments(mut draw: impl FnMut() -> f64) -> (f64, f64) {
        let n = 100_000;
        let values: Vec<f64> = (0..n).map(|_| draw()).collect();
        let mean = values.iter().sum::<f64>() / n as f64;
        (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64)
    }

    #[test]
    fn distributions_have_their_moments() {
        let mut stream = Stream::new(1, "moments");
        // Five standard errors of the mean, and a little more for the variance.
        let mut check = |name: &str, want: (f64, f64), draw: &mut dyn FnMut(&mut Stream) -> f64| {
            let got = moments(|| draw(&mut stream));
            assert!(
                (got.0 - want.0).abs() < 5.0 * (want.1 / 1e5).sqrt(),
                "{name}: mean {} instead of {}",
                got.0,
                want.0
            );
            assert!((got.1 / want.1 - 1.0).abs() < 0.03, "{name}: variance {} instead of {}", got.1, want.1);
        };
        check("uniform", (0.5, 1.0 / 12.0), &mut |s| s.uniform() as f64);
        check("normal", (0.0, 1.0), &mut |s| s.normal());
        check("below 10", (4.5, 8.25), &mut |s| s.below(10) as f64);
        check("beta 0.75", (0.5, 0.1), &mut |s| s.beta(0.75, 0.75));
        check("beta 2, 5", (2.0 / 7.0, 10.0 / (49.0 * 8.0)), &mut |s| s.beta(2.0, 5.0));
    }

    #[test]
    fn shuffle_reaches_every_order_alike() {
        let mut stream = Stream::new(3, "orders");
        let mut seen = std::collections::HashMap::new();
        for _ in 0..24_000 {
            let mut items = [0, 1, 2, 3];
            stream.shuffle(&mut items);
            *seen.entry(items).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 24);
        // Six standard deviations of a count with mean 1000.
        assert!(seen.values().all(|n| (*n as f64 - 1000.0).abs() < 190.0), "{seen:?}");
        assert_eq!(stream.below(0), 0);
        assert_eq!(stream.below(1), 0);
    }
}
