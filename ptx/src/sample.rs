//! A sample of a launch's blocks, for costs alone: a grid of alike blocks costs what a few of them cost.

/// The numbers of `wanted` of `total` blocks, in order: the first, the last, and between them one at a random
/// place of each equal part, because a constant stride would meet the same column of the grid each time.
pub fn sample(total: u64, wanted: u64) -> Vec<u64> {
    let wanted = wanted.max(1);
    if wanted >= total {
        return (0..total).collect();
    }
    if wanted == 1 {
        // Neither the first nor the last: those are at the borders.
        return vec![total / 2];
    }
    let (parts, inside) = (wanted - 2, total - 2);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut within = |size: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) as u128 * size as u128 >> 31) as u64
    };
    let between = (0..parts).map(|part| {
        let at = |part: u64| (part as u128 * inside as u128 / parts as u128) as u64;
        1 + at(part) + within(at(part + 1) - at(part))
    });
    [0].into_iter().chain(between).chain([total - 1]).collect()
}

#[cfg(test)]
mod tests {
    use super::sample;

    #[test]
    fn a_sample_is_spread_over_the_grid_and_has_both_ends() {
        assert_eq!(sample(5, 5), [0, 1, 2, 3, 4]);
        assert_eq!(sample(5, 9), [0, 1, 2, 3, 4]);
        assert_eq!((sample(9, 1), sample(9, 2), sample(9, 0)), (vec![4], vec![0, 8], vec![4]));
        for (total, wanted) in [(10, 3), (11, 10), (1000, 7), (4096, 64), (u64::MAX / 2, 33)] {
            let blocks = sample(total, wanted);
            assert_eq!((blocks[0], *blocks.last().unwrap()), (0, total - 1));
            assert_eq!(blocks.len() as u64, wanted);
            assert!(blocks.windows(2).all(|pair| pair[0] < pair[1]), "{blocks:?}");
            let gap = blocks.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            assert!(gap <= 2 * (total / (wanted - 2).max(1) + 1), "{total} {wanted}: a gap of {gap}");
        }
        // Columns of a grid that is 64 wide: a stride would see one of them.
        let columns: std::collections::BTreeSet<u64> = sample(64 * 64, 66).iter().map(|b| b % 64).collect();
        assert!(columns.len() > 20, "{columns:?}");
    }
}
