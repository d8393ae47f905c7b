//! A sample of a launch's blocks, for costs alone: a grid of alike blocks costs what a few of them cost.

/// Blocks that run in the place of all.
pub struct Sample {
    /// The first and the last block, which stand for themselves: they are at the borders.
    pub ends: Vec<u64>,
    /// Those that stand for all others.
    pub inside: Vec<u64>,
    /// How many others each of `inside` stands for.
    pub weight: f64,
}

impl Sample {
    /// `wanted` of `total` blocks: the first, the last, and between them one at a random place of each equal
    /// part, because a constant stride would meet the same column of the grid each time.
    pub fn of(total: u64, wanted: u64) -> Sample {
        let wanted = wanted.max(1);
        if wanted >= total {
            return Sample { ends: Vec::new(), inside: (0..total).collect(), weight: 1.0 };
        }
        if wanted <= 2 {
            let inside = if wanted == 1 { vec![total / 2] } else { vec![0, total - 1] };
            return Sample { ends: Vec::new(), inside, weight: total as f64 / wanted as f64 };
        }
        let (parts, others) = (wanted - 2, total - 2);
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut within = |size: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (((state >> 33) as u128 * size as u128) >> 31) as u64
        };
        let between = (0..parts).map(|part| {
            let at = |part: u64| (part as u128 * others as u128 / parts as u128) as u64;
            1 + at(part) + within(at(part + 1) - at(part))
        });
        Sample { ends: vec![0, total - 1], inside: between.collect(), weight: others as f64 / parts as f64 }
    }

    pub fn len(&self) -> u64 {
        (self.ends.len() + self.inside.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::Sample;

    #[test]
    fn a_sample_is_spread_over_the_grid_and_has_both_ends() {
        let inside = |total, wanted| {
            let Sample { ends, inside, weight } = Sample::of(total, wanted);
            assert!(ends.is_empty());
            (inside, weight)
        };
        assert_eq!(inside(5, 5), (vec![0, 1, 2, 3, 4], 1.0));
        assert_eq!(inside(5, 9), (vec![0, 1, 2, 3, 4], 1.0));
        assert_eq!(
            (inside(9, 1), inside(9, 0), inside(9, 2)),
            ((vec![4], 9.0), (vec![4], 9.0), (vec![0, 8], 4.5))
        );
        for (total, wanted) in [(10, 3), (11, 10), (1000, 7), (4096, 64), (u64::MAX / 2, 33)] {
            let sample = Sample::of(total, wanted);
            assert_eq!(sample.ends, [0, total - 1]);
            assert_eq!(sample.len(), wanted);
            let (inside, parts) = (&sample.inside, wanted - 2);
            assert!(inside[0] > 0 && *inside.last().unwrap() < total - 1);
            assert!(inside.windows(2).all(|pair| pair[0] < pair[1]), "{inside:?}");
            let gap = inside.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
            assert!(gap <= 2 * (total / parts + 1), "{total} {wanted}: a gap of {gap}");
            assert_eq!(sample.weight, (total - 2) as f64 / parts as f64);
        }
        // Columns of a grid that is 64 wide: a stride would see one of them.
        let columns: std::collections::BTreeSet<u64> =
            Sample::of(64 * 64, 66).inside.iter().map(|block| block % 64).collect();
        assert!(columns.len() > 20, "{columns:?}");
    }
}
